"""Long texts, cut into parts that end where a speaker would take breath."""

import math
import re
from collections.abc import Callable, Iterator

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

# Bytes of UTF-8 rather than characters, because in every script bytes are proportional to time:
# about 15 a second, of English (a byte a letter) as of Chinese (three bytes a character). 400 bytes
# last about 27 s, well within the 47 s of a request by default (max_new_tokens 1024), and no single
# sentence of a dialogue is as long.
LONGEST_PART_BYTES = 400
_FULL = 0.75  # share of that length aimed at; the rest is for sentences that end a little later

# A clause ends after a comma, colon or semicolon: a Western one only before a space (not in 1,000),
# an East Asian one, and a dash, anywhere.
_CLAUSE = re.compile(r"(?<=[,;:\u060c\u061b])(?=\s)|(?<=[\u3001\uff0c\uff1b\uff1a\u2014])")
_WORD = re.compile(r"(?<=\s)(?=\S)")


def parts_of(text: str, language: str = "en") -> list[str]:
    """Cut a text into parts that are spoken one by one.

    Args:
        text: What to say.
        language: ISO 639 code; it decides about abbreviations, not about what ends a sentence.

    Returns:
        The text unchanged if it has at most 400 bytes of UTF-8. Else parts of about equal length:
        whole sentences; clauses or words only where a single sentence is longer; more than 400
        bytes only where there is no clause or word to cut at.
    """
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
    """The sentences of a text; joined they are the text."""
    return list(segment(language, text))


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
