"""Captions cut into cues that a viewer can read: a sentence at a time, in short lines.

The times of a cue are exact where a request to the server begins or ends; within one request, time
is shared by characters.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from sentencex import segment as sentences_of  # pyright: ignore[reportAttributeAccessIssue]

from voicereel.errors import InvalidRequest

LINE_CHARACTERS, CUE_LINES = 42, 2  # what broadcasters use for Latin scripts

_JOINER = "\u200d"


@dataclass(frozen=True)
class Cue:
    """Some lines of text, and when they are seen.

    Attributes:
        start: Seconds.
        end: Seconds.
        lines: The text.
        is_first: Whether its caption begins with it.
    """

    start: float
    end: float
    lines: list[str]
    is_first: bool


@dataclass(frozen=True)
class Layout:
    """The size of a cue.

    Attributes:
        line_characters: Of a line, at most.
        cue_lines: Lines of a cue, at most.

    Raises:
        InvalidRequest: If one is too small.
    """

    line_characters: int = LINE_CHARACTERS
    cue_lines: int = CUE_LINES

    def __post_init__(self) -> None:
        if self.line_characters < 8 or self.cue_lines < 1:
            raise InvalidRequest(
                f"captions of {self.cue_lines} lines of {self.line_characters} characters, "
                "expected at least 1 line of 8 characters"
            )

    def cues_of(self, spans: list[tuple[float, float, str]], prefix: str = "") -> list[Cue]:
        """The cues of one caption.

        Args:
            spans: Start, end in seconds, and text of each request that the caption consists of.
            prefix: Stands before the text of the first cue, the name of the speaker.
        """
        text = prefix + " ".join(text for _, _, text in spans)
        whole = self._lines(text)
        by_sentence = [line for sentence in _sentences(text) for line in self._lines(sentence)]
        if len(whole) > 1 and len(by_sentence) <= self.cue_lines:
            whole = by_sentence
        if len(whole) <= self.cue_lines:
            return [Cue(spans[0][0], spans[-1][1], whole, is_first=True)]
        cues: list[Cue] = []
        for start, end, text in spans:
            cues += self._timed(start, end, text, "" if cues else prefix)
        return [replace(cue, is_first=number == 0) for number, cue in enumerate(cues)]

    def _timed(self, start: float, end: float, text: str, prefix: str) -> Iterator[Cue]:
        groups, named = [], len(prefix)
        for sentence in _sentences(text):
            lines = self._lines(prefix + sentence)
            count = -(-len(lines) // self.cue_lines)
            sizes = [len(lines) * n // count for n in range(count + 1)]  # 3 + 2, not 4 + 1
            groups += [lines[a:b] for a, b in pairwise(sizes)]
            prefix = ""
        sizes = [max(1, sum(map(len, lines)) - named * (lines is groups[0])) for lines in groups]
        edges = [start + (end - start) * n / sum(sizes) for n in accumulate(sizes, initial=0)]
        for lines, (begin, finish) in zip(groups, pairwise([*edges[:-1], end]), strict=True):
            yield Cue(begin, finish, lines, is_first=False)

    def _lines(self, text: str) -> list[str]:
        """Lines of about equal length, as few as possible."""
        count = len(wrapped(text, self.line_characters))
        width = min(self.line_characters, max(8, -(-len(text) // count)))
        while len(lines := wrapped(text, width)) > count and width < self.line_characters:
            width += 1
        return lines


def _sentences(text: str) -> list[str]:
    return [sentence.strip() for sentence in sentences_of("en", text) if sentence.strip()]


LAYOUT = Layout()


def wrapped(text: str, width: int) -> list[str]:
    """Fill lines of at most `width` characters; a word that is longer is cut."""
    lines, line = [], ""
    for piece in _pieces(text):
        if line and len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        line += piece if line else piece.lstrip()
        while len(line.rstrip()) > width:
            cut = _cut(line, width)
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line.rstrip()] if line.strip() or not lines else lines


def _pieces(text: str) -> Iterator[str]:
    """What stays on one line: words with the space after them, and East Asian characters."""
    start = 0
    for at in range(1, len(text)):
        before, after = text[at - 1], text[at]
        if before == " " or (
            (_is_wide(before) or _is_wide(after))
            and after != " "
            and not _begins_no_line(after)
            and unicodedata.category(before) not in ("Ps", "Pi")  # opening brackets and quotes
            and not _continues(text, at)
        ):
            yield text[start:at]
            start = at
    yield text[start:]


def _cut(word: str, width: int) -> int:
    """Where to cut a word that is too long: not before a mark that belongs to a letter."""
    return next((at for at in range(width, 0, -1) if not _continues(word, at)), width)


def _continues(text: str, at: int) -> bool:
    """Whether the character at this place belongs to the one before it."""
    mark = unicodedata.category(text[at])[0] == "M" or "\U0001f3fb" <= text[at] <= "\U0001f3ff"
    return mark or _JOINER in text[at - 1 : at + 1]


def _begins_no_line(character: str) -> bool:
    """Whether it ends a phrase, lengthens or repeats the one before, or is a small kana."""
    closes = unicodedata.category(character) in ("Pe", "Pf", "Po", "Lm")
    return closes or "LETTER SMALL" in unicodedata.name(character, "")


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
