"""Error kinds: the client's table and the words that the server's models write are the same."""

import pytest

from ensemble.contract import errors as contract
from voicereel.errors import KINDS, Cancelled, InvalidRequest, Overloaded, VoiceReelError, error_for

EXPECTED = {"INVALID_ARG": InvalidRequest, "UNAVAILABLE": Overloaded, "CANCELLED": Cancelled}


def test_every_kind_of_the_server_has_its_error() -> None:
    found = {
        kind.code: type(error_for("", f"fish_llama: {kind.words}: why")) for kind in contract.KINDS
    }
    assert found == EXPECTED


def test_the_client_knows_no_kind_that_the_server_lacks() -> None:
    assert {words.partition(":")[0] for words in KINDS} == {kind.words for kind in contract.KINDS}


@pytest.mark.parametrize("words", KINDS)
def test_a_kind_counts_only_behind_the_name_of_a_model(words: str) -> None:
    assert type(error_for("", f"in ensemble 'fish_tts', fish_tts: {words} x")) is KINDS[words]
    assert type(error_for("CANCELLED", f"fish_tts: the text {words} x")) is Cancelled
    assert isinstance(error_for("", words), VoiceReelError)


def test_the_order_of_the_table_does_not_hide_a_row() -> None:
    rows = list(KINDS)
    for index, words in enumerate(rows):
        assert not any(words.startswith(earlier) for earlier in rows[:index])
