"""Where text that is still being written is cut."""

import pytest

from gateway.utterances import Cutter


@pytest.mark.parametrize(
    ("granularity", "pieces", "found"),
    [
        ("sentence", ["It costs 3.", "14 dollars in all. ", "Yes."],
         ["It costs 3.14 dollars in all."]),
        ("sentence", ["No. No! Never, never, never. ", "x"], ["No. No! Never, never, never."]),
        ("clause", ["When the morning came, ", "we all went"], ["When the morning came,"]),
        ("sentence", ["Good morning to all of you. <|spea", "ker:0|>Yes. ", "<|speaker:1|>A. x"],
         ["Good morning to all of you."]),
        ("none", ["This is a sentence. ", "Another. ", "x"], []),
    ],
)  # fmt: skip
def test_text_is_cut_where_more_follows(
    granularity: str, pieces: list[str], found: list[str]
) -> None:
    cutter = Cutter(granularity, "en")
    assert [piece for text in pieces for piece in cutter.add(text)] == found
    whole = " ".join([*found, *cutter.end()])
    assert " ".join(whole.split()) == " ".join("".join(pieces).split())
