"""Tokens that callers take back, before, while and after their requests run."""

import json
import os

import pytest

from ensemble.serving import cancel
from ensemble.serving.cancel import CancelToken, take_back

PARAMETERS = json.dumps({"cancel_token": "ab" * 16})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cancel, "_FOLDER", tmp_path / "waiting")
    return tmp_path / "waiting"


def test_taken_back_while_it_runs(folder) -> None:
    token = CancelToken(PARAMETERS)
    assert not token.taken_back
    assert take_back("ab" * 16)
    assert token.taken_back
    token.end()
    assert list(folder.iterdir()) == []


def test_taken_back_before_it_comes_is_remembered_once(folder) -> None:
    assert not take_back("ab" * 16)
    assert CancelToken(PARAMETERS).taken_back
    assert list(folder.iterdir()) == []
    assert not CancelToken(PARAMETERS).taken_back


def test_early_ones_are_forgotten_when_old_or_too_many(folder, monkeypatch) -> None:
    monkeypatch.setattr(cancel, "EARLY_LIMIT", 3)
    for i in range(5):
        take_back(f"{i:032x}")
        os.utime(folder / f"{i:032x}.early", (2e9 + i, 2e9 + i))
    assert sorted(int(x.stem, 16) for x in folder.iterdir()) == [2, 3, 4]
    for mark in folder.iterdir():
        os.utime(mark, (0, 0))
    take_back("f" * 32)
    assert [x.stem for x in folder.iterdir()] == ["f" * 32]


def test_a_token_in_use_is_refused() -> None:
    CancelToken(PARAMETERS)
    with pytest.raises(ValueError, match="is in use, expected a new one"):
        CancelToken(PARAMETERS)


def test_a_folder_of_somebody_else_is_not_used(folder, tmp_path) -> None:
    """Whoever may write there could end every request of this server."""
    folder.mkdir()
    folder.chmod(0o777)
    for use in (lambda: CancelToken(PARAMETERS), lambda: take_back("ab" * 16)):
        with pytest.raises(PermissionError, match=r"is not this server's own folder\. Remove it"):
            use()
    folder.rmdir()
    (tmp_path / "theirs").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(PermissionError):
        CancelToken(PARAMETERS)


def test_tokens_are_not_to_be_found_out(folder) -> None:
    """Neither parts, patterns nor paths of one in use end its request."""
    token = CancelToken(PARAMETERS)
    for guess in (
        "ab" * 15,
        "ab" * 17,
        "AB" * 16,
        "*" * 32,
        "../" + "ab" * 16,
        "ab" * 16 + "\n",
        "",
    ):
        with pytest.raises(ValueError, match="expected 32 hexadecimal digits"):
            take_back(guess)
    assert not take_back("ba" * 16)
    assert not token.taken_back
