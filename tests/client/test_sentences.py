"""Long texts are cut at sentences and nothing is lost; short texts are not changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicereel.script.sentences import (
    LONGEST_PART_BYTES,
    parts_of,
    sentences_of,
    smaller_parts,
)

ENGLISH = "Dr. Smith paid 1,000 dollars, i.e. too much. He was late. "
CHINESE = "今天天气很好。你好吗？他说：“走吧。”然后走了！"


def size(text: str) -> int:
    return len(text.encode())


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("text", ["One. Two. Three.", "x" * LONGEST_PART_BYTES, " a\n\nb "])
def test_short_texts_stay_as_they_are(text: str) -> None:
    assert parts_of(text) == [text]


@pytest.mark.parametrize("text", [ENGLISH * 20, CHINESE * 20, (ENGLISH + CHINESE) * 10])
def test_parts_are_whole_sentences_of_about_equal_length(text: str) -> None:
    parts = parts_of(text)
    assert squeezed("".join(parts)) == squeezed(text)
    assert all(part.endswith((".", "。", "！", "”", "？")) for part in parts)
    assert not any(part.endswith(("Dr.", "i.e.")) for part in parts)
    assert max(map(size, parts)) <= LONGEST_PART_BYTES
    assert min(map(size, parts)) > LONGEST_PART_BYTES / 3


def test_abbreviations_are_those_of_the_language() -> None:
    text = "Am 3. Mai kam Frau Müller mit der Bahn nach Hause zurück. " * 10
    assert all(part.endswith("zurück.") for part in parts_of(text, "de"))


def test_a_sentence_that_is_too_long_is_cut_at_clauses_then_at_words() -> None:
    clauses = "He counted 1,000 sheep, " * 40
    parts = parts_of(clauses)
    assert all(part.endswith("sheep,") for part in parts)
    assert max(map(size, parts)) <= LONGEST_PART_BYTES
    words = parts_of("word " * 300)
    assert {len(part) % 5 for part in words} == {4}
    assert max(map(size, words)) <= LONGEST_PART_BYTES


def test_what_has_nothing_to_cut_at_stays_whole() -> None:
    assert parts_of("x" * 5000) == ["x" * 5000]


@given(st.text(max_size=1500))
def test_nothing_is_lost(text: str) -> None:
    parts = parts_of(text)
    if size(text) <= LONGEST_PART_BYTES:
        assert parts == [text]
    else:
        assert squeezed("".join(parts)) == squeezed(text)
        assert all(part.strip() for part in parts)


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith paid 3.5 dollars at 5 p.m. in the U.S. market. ", "He was late."],
        ["It cost approx. 5 dollars, see vol. 2, ch. 9. ", "Really?! ", "Yes."],
        ['He said "Go. Now." and left. ', "Wait... what? ", "Well, no."],
        ["1. First things first. ", "2. Then the rest."],
        ["Version 2.5.1 works. ", "J. R. R. Tolkien wrote it... "],
        ["今天天气很好。", "你好吗？"],
        ["... no words before. ", "None behind. — !"],
        ["no capitals. ", "none at all? ", "none"],
    ],
)
def test_sentences(sentences: list[str]) -> None:
    assert sentences_of("".join(sentences)) == sentences


def test_a_limit_of_letters_joins_short_neighbours_only() -> None:
    greeting = "Good morning, Bob. Did you sleep well?"
    story = "Once upon a time, a sleepy dolphin lived inside the library."
    text = f"{greeting} {story} {greeting}"
    assert parts_of(text, "en", 42) == [greeting, story, greeting]
    assert parts_of(text, "en", 1000) == parts_of(text) == [text]
    assert parts_of(story, "en", 42) == [story]
    assert parts_of(" a\n\nb ", "en", 42) == [" a\n\nb "]
    long = f"{'He counted 1,000 sheep, ' * 40}. {greeting}"
    parts = parts_of(long, "en", 42)
    assert squeezed("".join(parts)) == squeezed(long)
    assert max(map(size, parts)) <= LONGEST_PART_BYTES


def test_smaller_parts() -> None:
    assert smaller_parts("One. Two, three.") == ["One.", "Two, three."]
    assert smaller_parts("When he came, 1,000 sheep slept.") == [
        "When he came,",
        "1,000 sheep slept.",
    ]
    assert smaller_parts("No clause here.") == ["No clause here."]


@given(st.text(max_size=300), st.integers(1, 60))
def test_no_letter_is_lost_by_a_limit(text: str, limit: int) -> None:
    assert "".join(sentences_of(text)) == text
    assert squeezed("".join(parts_of(text, "en", limit))) == squeezed(text)


def test_a_dialogue_stays_whole_since_a_part_would_have_no_speaker() -> None:
    text = "<|speaker:0|>Good morning. " + 40 * "It is late, as you know. " + "<|speaker:1|>Yes."
    assert parts_of(text) == parts_of(text, letters_per_request=42) == smaller_parts(text) == [text]
