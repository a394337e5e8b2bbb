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


def test_a_full_stage_says_when_to_come_again() -> None:
    """Its words are those of `engine.schedule.scheduler`, whose test has them too."""
    said = "fish_llama: overloaded: a slot is expected in 28 s, ... Try again in 8 s, or add"
    assert error_for("INTERNAL", said).retry_after_s == 8
    assert error_for("UNAVAILABLE", said, retry_after_s=0.3).retry_after_s == 0.3
    assert error_for("", "fish_llama: cancelled: Try again in 8 s").retry_after_s == 0
