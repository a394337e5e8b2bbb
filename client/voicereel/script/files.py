"""Script files: JSON, YAML, plain text or subtitles, read with the line of each segment.

- {speaker_id: ALICE, text: "Good morning, Bob. Did you sleep well?", silence_after_s: 0.5}
- {speaker_id: BOB, text: "Good morning, Alice. Let us begin.", options: {temperature: 0.9}}
"""

import json
import os
import re
import reprlib
from pathlib import Path
from typing import Any

import yaml

from voicereel.errors import InvalidRequest
from voicereel.script.segment import Script, parse_script
from voicereel.script.subtitles import TIMING, read_subtitles
from voicereel.text import decoded, read_text

# The colon of a plain line, and its forms in East Asian texts.
_COLON = re.compile("[:\uff1a\ufe55\ufe13]")
_LINE = re.compile("[\n\u2028\u2029]")


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
    try:
        segments = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequest(f"{source}{where}: expected JSON, but {error}") from None
    # The parser keeps no line numbers, so each segment is decoded once more to find its end.
    lines, at, decoder = [], text.find("[") + 1, json.JSONDecoder()
    for _ in segments if isinstance(segments, list) else ():
        while text[at] in " \t\r\n,":
            at += 1
        lines.append(text.count("\n", 0, at) + 1)
        at = decoder.raw_decode(text, at)[1]
    return segments, lines


class _Loader(yaml.SafeLoader):
    """Takes words as they are written: a text of 12:30, yes or null is no number, flag or gap."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        self.flatten_mapping(node)
        for key, value in node.value:
            if key.value in ("speaker_id", "text") and isinstance(value, yaml.ScalarNode):
                value.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        r"""Join the halves of a character that is written as in JSON: "\ud83d\ude42"."""
        value = super().construct_scalar(node)
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _yaml(text: str, source: str) -> tuple[Any, list[int]]:
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        segments = loader.construct_document(node) if node else []
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: 2026-99-99
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or error
        raise InvalidRequest(f"{source}{where}: expected YAML, but {problem}") from None
    finally:
        if loader:
            loader.dispose()
    children = node.value if isinstance(node, yaml.SequenceNode) else ()
    return segments, [child.start_mark.line + 1 for child in children]


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
            continue
        speaker, *said = (part.strip() for part in _COLON.split(line, maxsplit=1))
        if not (speaker and said):
            raise InvalidRequest(
                f"{source}, line {number}: got {reprlib.repr(line.strip())}, expected "
                "SPEAKER: text. Indent a line that continues the one before."
            )
        segments.append({"speaker_id": speaker, "text": said[0]})
        lines.append(number)
    return segments, lines
