"""Long texts, cut into parts that end where a speaker would take breath."""

import math
import re
from collections.abc import Callable, Iterator

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

from voicereel.rate import letters
from voicereel.text import has_words

# Bytes of UTF-8 rather than characters, because in every script bytes are proportional to time:
# about 15 a second, of English (a byte a letter) as of Chinese (three bytes a character). 400 bytes
# last about 27 s, well within the 47 s of a request by default (max_new_tokens 1024), and no single
# sentence of a dialogue is as long.
LONGEST_PART_BYTES = 400
_FULL = 0.75  # share of that length aimed at; the rest is for sentences that end a little later

# Begins the turn of a speaker, for checkpoints of dialogues. A part without it would be spoken by
# another one, and such a server cuts by turns itself.
SPEAKER_MARK = re.compile(r"<\|speaker:\d+\|>")

# A clause ends after a comma, colon or semicolon: a Western one only before a space (not in 1,000),
# an East Asian one, and a dash, anywhere.
_CLAUSE = re.compile(r"(?<=[,;:\u060c\u061b])(?=\s)|(?<=[\u3001\uff0c\uff1b\uff1a\u2014])")
_WORD = re.compile(r"(?<=\s)(?=\S)")

# What sentencex takes for the end of a sentence and is none: the number of a list's entry, and
# abbreviations before a number.
_NUMBERING = re.compile(r"\s*\(?(\d{1,3}|[a-zA-Z])[.)]\s*")
_ABBREVIATION = re.compile(
    r"\b(approx|art|ca|ch|chap|est|fig|max|min|p|para|pp|sec|tel|vol)\.\s*$", re.IGNORECASE
)


def parts_of(text: str, language: str = "en", letters_per_request: int = 0) -> list[str]:
    """Cut a text into parts that are spoken one by one.

    Args:
        text: What to say.
        language: ISO 639 code; it decides about abbreviations, not about what ends a sentence.
        letters_per_request: Sentences of more letters than these are not spoken together, for a
            checkpoint that cannot; 0: no limit.

    Returns:
        The text unchanged if it has at most 400 bytes of UTF-8. Else parts of about equal length:
        whole sentences; clauses or words only where a single sentence is longer; more than 400
        bytes only where there is no clause or word to cut at, and unchanged if it has marks of
        speakers.
    """
    if SPEAKER_MARK.search(text):
        return [text]
    if letters_per_request and letters(text) > letters_per_request:
        sentences = _together(sentences_of(text, language), letters_per_request)
        if len(sentences) > 1:
            return [part for sentence in sentences for part in parts_of(sentence, language)]
    if _bytes(text) <= LONGEST_PART_BYTES:
        return [text]
    aim = _bytes(text) / math.ceil(_bytes(text) / (_FULL * LONGEST_PART_BYTES))
    parts, filling, position = [""], 0, 0
    for piece in _pieces(text, language, 0):
        belongs = int((position + _bytes(piece) / 2) / aim)  # equal shares leave no short rest
        if belongs != filling or _bytes(parts[-1] + piece) > LONGEST_PART_BYTES:
            parts.append("")
        parts[-1] += piece
        filling, position = belongs, position + _bytes(piece)
    return [part.strip() for part in parts if part.strip()]


def sentences_of(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, each with words to say; joined they are the text."""
    sentences: list[str] = []
    for piece in segment(language, text):
        goes_on = sentences and (
            not has_words(piece)
            or not has_words(sentences[-1])
            or _NUMBERING.fullmatch(sentences[-1])
            or (_ABBREVIATION.search(sentences[-1]) and piece[0].isdigit())
        )
        if goes_on:
            sentences[-1] += piece
        else:
            sentences.append(piece)
    return sentences


def smaller_parts(text: str, language: str = "en") -> list[str]:
    """A text by sentences; one sentence by clauses; a clause as it is, and so a dialogue."""
    if SPEAKER_MARK.search(text):
        return [text]
    for pieces in (sentences_of(text, language), _CLAUSE.split(text)):
        spoken = [piece.strip() for piece in pieces if has_words(piece)]
        if len(spoken) > 1:
            return spoken
    return [text]


def _together(sentences: list[str], most_letters: int) -> list[str]:
    """Join neighbours that have no more letters together than allowed."""
    parts = [""]
    for sentence in sentences:
        if parts[-1] and letters(parts[-1] + sentence) > most_letters:
            parts.append("")
        parts[-1] += sentence
    return [part.strip() for part in parts]


def clauses_of(text: str, language: str = "en") -> list[str]:
    """The clauses of a text, sentences that have none as they are; joined they are the text."""
    return [clause for piece in sentences_of(text, language) for clause in _CLAUSE.split(piece)]


def _pieces(text: str, language: str, level: int) -> Iterator[str]:
    """Yield sentences; a sentence that is too long as clauses, such a clause as words."""
    cuts: list[Callable[[str], list[str]]] = [
        lambda whole: segment(language, whole),
        _CLAUSE.split,
        _WORD.split,
    ]
    for piece in cuts[level](text):
        if _bytes(piece) > LONGEST_PART_BYTES and level + 1 < len(cuts):
            yield from _pieces(piece, language, level + 1)
        else:
            yield piece


def _bytes(text: str) -> int:
    return len(text.encode())
