"""Error kinds: the client's table and the words that the server's models write are the same."""

import ast
from pathlib import Path

import pytest

from voicereel.errors import KINDS, Cancelled, InvalidRequest, Overloaded, VoiceReelError, error_for

WIRE = Path(__file__).resolve().parents[2] / "ensemble" / "serving" / "wire.py"
EXPECTED = {"INVALID_ARG": InvalidRequest, "UNAVAILABLE": Overloaded, "CANCELLED": Cancelled}


def kinds_of_the_server() -> dict[str, str]:
    """Code -> kind; read from the source, which imports only inside a tritonserver."""
    for node in ast.walk(ast.parse(WIRE.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_KINDS":
            return ast.literal_eval(node.value)
    pytest.fail(f"{WIRE} has no _KINDS")


def test_every_kind_of_the_server_has_its_error() -> None:
    said = kinds_of_the_server()
    found = {code: type(error_for("", f"fish_llama: {kind}: words")) for code, kind in said.items()}
    assert found == EXPECTED


def test_the_client_knows_no_kind_that_the_server_lacks() -> None:
    assert {words.partition(":")[0] for words in KINDS} == set(kinds_of_the_server().values())


@pytest.mark.parametrize("words", KINDS)
def test_a_kind_counts_only_behind_the_name_of_a_model(words: str) -> None:
    assert type(error_for("", f"in ensemble 'fish_tts', fish_tts: {words} x")) is KINDS[words]
    assert type(error_for("CANCELLED", f"fish_tts: the text {words} x")) is Cancelled
    assert isinstance(error_for("", words), VoiceReelError)


def test_the_order_of_the_table_does_not_hide_a_row() -> None:
    rows = list(KINDS)
    for index, words in enumerate(rows):
        assert not any(words.startswith(earlier) for earlier in rows[:index])
