"""Letters a second: what is impossibly fast or slow for a text, in any script."""

import re

import pytest

from ensemble.contract.facts import LETTERS_PER_S
from voicereel.rate import letters, rate_warning
from voicereel.utterance import SpeechFacts

TWO = "Did the captain find the guitar last night? The enormous elephant is behind the hospital."
DEMO = (7.0, 19.0)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Is it?", 4), ("Dr. Smith", 7), ("1984", 16), ("今天", 6), ("はい", 6), ("안녕", 6),
        ("Größe", 5), ("привет", 6), ("ab\u0301 , -", 2), ("½", 1),
    ],
)  # fmt: skip
def test_letters(text, count) -> None:
    assert letters(text) == count


@pytest.mark.parametrize(
    ("text", "seconds", "rate", "warning"),
    [
        (TWO, 5.5, DEMO, None),
        (TWO, 3.0, DEMO, r"too short: words are missing \(24 letters a second, expected 7 to 19\)"),
        (TWO, 13.0, DEMO, r"too long: words may be repeated, or .* \(6 letters a second"),
        ("Is it?", 0.09, LETTERS_PER_S, "too short"),
        ("Is it?", 0.74, DEMO, None),
        ("Yes.", 1.2, DEMO, None),  # a second of silence is no fault
        ("Hello.", 0.0, DEMO, r"too short: words are missing \(no audio"),
        ("今天天气很好。你好吗？", 2.6, LETTERS_PER_S, None),
        ("今天天气很好。你好吗？", 0.8, LETTERS_PER_S, "too short"),
        ("<|speaker:0|>Yes.<|speaker:1|>No.", 0.4, LETTERS_PER_S, None),  # marks are not spoken
        ("(in a hurry tone) (laughing) Yes.", 0.6, LETTERS_PER_S, None),
        ("(in a hurry tone) Yes.", 4.0, LETTERS_PER_S, None),  # spoken after all
        ("Room 1984", 0.8, LETTERS_PER_S, None),
    ],
)
def test_speech_against_its_text(text, seconds, rate, warning) -> None:
    found = rate_warning(text, seconds, rate)
    if warning is None:
        assert found is None
    else:
        assert found is not None and re.search(f"is {warning}", found), found
        assert found.startswith(repr(text[:37])[:-1])


def test_defaults_of_client_and_server_are_the_same() -> None:
    assert SpeechFacts.from_facts({}) == SpeechFacts(0, LETTERS_PER_S)
    told = {"letters_per_request": 42, "letters_per_s": [7.0, 19.0], "family": "x"}
    assert SpeechFacts.from_facts(told) == SpeechFacts(42, DEMO)
