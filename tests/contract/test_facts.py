"""The checkpoint's facts beside the artefacts, and which exports they are read from."""

import json

import pytest

from ensemble.contract.facts import FILE_NAME, FORMAT, Facts
from support.facts import FACTS


@pytest.fixture
def folder(tmp_path):
    version = tmp_path / "fish_llama" / "1"
    version.mkdir(parents=True)
    FACTS.save(version)
    return version


def test_what_is_saved_is_read_again(folder) -> None:
    assert Facts.load(folder) == FACTS


@pytest.mark.parametrize("found", [None, 0, FORMAT + 1])
def test_an_export_of_another_format_is_refused(folder, found) -> None:
    path = folder / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": found, "new": 1}))
    with pytest.raises(
        ValueError,
        match=rf"^fish_llama: .*{FILE_NAME} has format {found}, expected {FORMAT}\. "
        "Re-export with: make export CHECKPOINT=DIR$",
    ):
        Facts.load(folder)


def test_nothing_exported_says_how(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="Make it with: make export CHECKPOINT=DIR"):
        Facts.load(tmp_path / "fish_llama" / "1")
