"""Texts too long for one go -> parts that end where a speaker would take breath."""

import math
import re
from collections.abc import Callable, Iterator

from sentencex import segment  # pyright: ignore[reportAttributeAccessIssue]

# UTF-8 bytes, because they go with time in every script: some 15 a second of English (one a
# letter) as of Chinese (three a character). 400 last about 27 s, well within the 47 s that a
# request may last by default (max_new_tokens 1024), and far beyond any one sentence of a dialogue.
LONGEST_PART_BYTES = 400
_FULL = 0.75  # of it: leaves room for sentences that do not end where they should

# Behind a comma and the like: Western ones need a space (1,000), East Asian ones and a dash do not.
_CLAUSE = re.compile(r"(?<=[,;:\u060c\u061b])(?=\s)|(?<=[\u3001\uff0c\uff1b\uff1a\u2014])")
_WORD = re.compile(r"(?<=\s)(?=\S)")


def parts_of(text: str, language: str = "en") -> list[str]:
    """Cut a text.

    Args:
        text: What to say.
        language: ISO 639 code; it decides about abbreviations, not about what ends a sentence.

    Returns:
        The text as it is if it takes 400 bytes of UTF-8 at most. Else parts of about equal
        length: whole sentences; clauses or words only where a sentence alone is longer; more
        than 400 bytes only where there is nothing to cut at.
    """
    if _bytes(text) <= LONGEST_PART_BYTES:
        return [text]
    aim = _bytes(text) / math.ceil(_bytes(text) / (_FULL * LONGEST_PART_BYTES))
    parts, filling, position = [""], 0, 0
    for piece in _pieces(text, language, 0):
        belongs = int((position + _bytes(piece) / 2) / aim)  # so that none is left over at the end
        if belongs != filling or _bytes(parts[-1] + piece) > LONGEST_PART_BYTES:
            parts.append("")
        parts[-1] += piece
        filling, position = belongs, position + _bytes(piece)
    return [part.strip() for part in parts if part.strip()]


def _pieces(text: str, language: str, level: int) -> Iterator[str]:
    """Sentences; of one that is too long its clauses, of such a clause its words."""
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
