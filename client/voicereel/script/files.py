"""Script files: JSON, YAML, plain text or subtitles, read with the line of each segment.

- {speaker_id: ALICE, text: "Good morning, Bob. Did you sleep well?", silence_after_s: 0.5}
- {speaker_id: BOB, text: "Good morning, Alice. Let us begin.", options: {temperature: 0.9}}
"""

import json
import os
import re
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voicereel.errors import InvalidRequest
from voicereel.script.segment import MOST_SEGMENTS, Script, parse_script
from voicereel.script.subtitles import TIMING, check_length, read_subtitles
from voicereel.script.yaml import read_yaml
from voicereel.text import decoded, read_text

# The colon of a plain line, and its forms in East Asian texts.
_COLON = re.compile("[:\uff1a\ufe55\ufe13]")
_LINE = re.compile("[\n\u2028\u2029]")
# A bracket, or a text, which may hold some. A text without an end is one too: else each of its
# quotes would be looked at to the end of the file.
_BRACKET = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
_DEEPEST = 32  # a script is a list of mappings with options
_TOO_DEEP = f"it is nested deeper than {_DEEPEST} levels, expected a list of segments"
_MOST_YAML = 2_000_000  # characters; some ten seconds of reading
_MOST_DIGITS = 40  # of a number; a seed has 20


def load_script(path: str | os.PathLike[str]) -> Script:
    """Read a script file by its suffix; the first lines decide where there is none.

    Args:
        path: .json or .yaml, a list of segments; .srt or .vtt, whose times are ignored; any other
            is plain text, lines of SPEAKER: text.

    Raises:
        InvalidRequest: If it cannot be read or is no script; names the line at fault.
    """
    return _script(read_text(path), str(path), Path(path).suffix)


def parse_script_text(raw: bytes, source: str) -> Script:
    """Read a script that comes without a file name, of any of `load_script`'s formats.

    Raises:
        InvalidRequest: If it is no script; names the line at fault in `source`.
    """
    return _script(decoded(raw, source), source, "")


def _script(text: str, source: str, suffix: str) -> Script:
    readers = {
        ".json": _json,
        ".yaml": _yaml,
        ".yml": _yaml,
        ".srt": read_subtitles,
        ".vtt": read_subtitles,
    }
    reader = readers.get(suffix.lower() or _format_of(text), _plain)
    segments, lines = reader(text, source)
    return parse_script(segments, source=source, lines=lines)


def _format_of(text: str) -> str:
    """The suffix that fits the first lines of a script; "" is plain text."""
    first = [line.strip() for line in text.split("\n") if line.strip()[:1] not in ("", "#")][:2]
    begin = " ".join(first)
    if re.match(r"\[\s*[{\]]", begin):
        return ".json"
    if re.match(r"(- |-$|---$|---\s)", begin):
        return ".yaml"
    return ".srt" if begin.startswith("WEBVTT") or any(map(TIMING.match, first)) else ""


def _json(text: str, source: str) -> tuple[Any, list[int]]:
    def line_of(at: int) -> str:
        return f", line {text.count(chr(10), 0, at) + 1}"

    _check_depth(text, source, line_of)

    def number(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            where = line_of(text.find(digits))
            raise InvalidRequest(f"{source}{where}: a number has {len(digits)} digits")
        return int(digits)

    try:
        segments = json.loads(text, parse_int=number)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"{source}, line {error.lineno}: expected JSON, but {error}") from None
    # The parser keeps no line numbers, so each segment is decoded once more to find its end.
    lines, at, line, decoder = [], text.find("[") + 1, 1, json.JSONDecoder()
    line += text.count("\n", 0, at)
    for _ in segments[:MOST_SEGMENTS] if isinstance(segments, list) else ():
        begin = at
        while text[at] in " \t\r\n,":
            at += 1
        line += text.count("\n", begin, at)
        lines.append(line)
        end = decoder.raw_decode(text, at)[1]
        line += text.count("\n", at, end)
        at = end
    return segments, lines


def _check_depth(text: str, source: str, line_of: Callable[[int], str]) -> None:
    """Refuse what is nested deeper than a script can be, where the parser would run out of room."""
    depth = 0
    for found in _BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > _DEEPEST:
            where = line_of(found.start())
            raise InvalidRequest(f"{source}{where}: expected JSON, but {_TOO_DEEP}")


def _yaml(text: str, source: str) -> tuple[Any, list[int]]:
    if len(text) > _MOST_YAML:
        raise InvalidRequest(
            f"{source} has {len(text)} characters, expected at most {_MOST_YAML} of YAML, which is "
            "slow to read. Write it as JSON, or cut it into several"
        )
    return read_yaml(text, source)


def _plain(text: str, source: str) -> tuple[list[dict[str, str]], list[int]]:
    """Read lines of `SPEAKER: text`; an indented line continues the one before, # is a comment."""
    segments: list[dict[str, str]] = []
    lines: list[int] = []
    for number, line in enumerate(_LINE.split(text), start=1):
        line = line.replace("\ufeff", "")  # files that were joined hold byte order marks
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and segments:
            segments[-1]["text"] += " " + line.strip()
            check_length(segments[-1]["text"], source, number)
            continue
        speaker, *said = (part.strip() for part in _COLON.split(line, maxsplit=1))
        if not (speaker and said):
            raise InvalidRequest(
                f"{source}, line {number}: got {reprlib.repr(line.strip())}, expected "
                "SPEAKER: text. Indent a line that continues the one before."
            )
        check_length(said[0], source, number)
        segments.append({"speaker_id": speaker, "text": said[0]})
        lines.append(number)
    return segments, lines
