"""Script files: JSON, YAML, or plain text, read with the line of each segment.

- {speaker_id: ALICE, text: "Good morning, Bob. Did you sleep well?", silence_after_s: 0.5}
- {speaker_id: BOB, text: "Good morning, Alice. Let us begin.", options: {temperature: 0.9}}
"""

import json
import os
import reprlib
from pathlib import Path
from typing import Any

import yaml

from voicereel.errors import InvalidRequest
from voicereel.script.segment import Script, parse_script


def load_script(path: str | os.PathLike[str]) -> Script:
    """Read a script file: .json or .yaml, a list of segments; any other is plain text.

    Raises:
        InvalidRequest: If it cannot be read or is no script; names the line at fault.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(
            f"{path}, line {line}: {error.reason}, expected UTF-8. Save it as such."
        ) from None
    read = {".json": _json, ".yaml": _yaml, ".yml": _yaml}.get(Path(path).suffix.lower(), _plain)
    segments, lines = read(text, str(path))
    return parse_script(segments, source=str(path), lines=lines)


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


def _yaml(text: str, source: str) -> tuple[Any, list[int]]:
    loader = None
    try:
        loader = yaml.SafeLoader(text)
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
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and segments:
            segments[-1]["text"] += " " + line.strip()
            continue
        speaker, colon, said = (part.strip() for part in line.partition(":"))
        if not (speaker and colon):
            raise InvalidRequest(
                f"{source}, line {number}: got {reprlib.repr(line.strip())}, expected "
                "SPEAKER: text. Indent a line that continues the one before."
            )
        segments.append({"speaker_id": speaker, "text": said})
        lines.append(number)
    return segments, lines
