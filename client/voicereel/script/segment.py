"""Scripts: who says what, from Python, JSON, YAML or plain text, checked before anything is said.

- {speaker_id: ALICE, text: Good morning., silence_after_s: 0.5}
- {speaker_id: BOB, text: Is it?, options: {temperature: 0.9}}
"""

import json
import os
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from voicereel.errors import InvalidRequest
from voicereel.transport.request import option_tensors

MAX_SILENCE_S = 60.0  # more is a slip of the pen, in milliseconds perhaps
_FIELDS = "speaker_id, text, options, silence_after_s"


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("expected at least one visible character")
    return text


def _options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        try:
            option_tensors({name: value})
        except (TypeError, InvalidRequest) as error:
            raise ValueError(f"{name}: {error}") from None
    return options


Words = Annotated[StrictStr, AfterValidator(_words)]


class Segment(BaseModel):
    """What one speaker says in one go.

    Attributes:
        speaker_id: Who; a key of the speaker features it is spoken with.
        text: What.
        options: As in `voicereel.Options`; they go before those of the whole script.
        silence_after_s: Seconds until the next segment; None is the script's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker_id: Words
    text: Words
    options: Annotated[dict[str, StrictInt | StrictFloat | None], AfterValidator(_options)] = Field(
        default_factory=dict
    )
    silence_after_s: float | None = Field(
        None, ge=0, le=MAX_SILENCE_S, strict=True, allow_inf_nan=False
    )


ScriptLike: TypeAlias = Sequence[Segment | Mapping[str, Any]]
Script: TypeAlias = tuple[Segment, ...]


def parse_script(
    segments: ScriptLike, *, source: str = "script", lines: Sequence[int] | None = None
) -> Script:
    """Check segments.

    Args:
        segments: `Segment`s, or mappings with their fields; at least one.
        source: Where they are from, for messages.
        lines: The line there of each, from 1.

    Raises:
        InvalidRequest: If one is wrong; says which, what it holds and what was expected.
    """
    if not isinstance(segments, Sequence) or isinstance(segments, str | bytes):
        raise InvalidRequest(
            f"{source} is {reprlib.repr(segments)}, expected a list of segments with {_FIELDS}"
        )
    if not segments:
        raise InvalidRequest(f"{source} has no segments, expected at least one")
    checked = []
    for index, segment in enumerate(segments):
        where = f"{source}: segment {index + 1}" + (f" (line {lines[index]})" if lines else "")
        try:
            checked.append(Segment.model_validate(segment))
        except ValidationError as error:
            raise InvalidRequest(f"{where}: {_explained(error)}") from None
    return tuple(checked)


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
    """`SPEAKER: text`; an indented line goes on with the one before, # begins a comment line."""
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
                "SPEAKER: text. Indent a line that goes on with the one before."
            )
        segments.append({"speaker_id": speaker, "text": said})
        lines.append(number)
    return segments, lines


def _explained(error: ValidationError) -> str:
    """The first thing pydantic found, in this package's words."""
    found = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in found["loc"][:2])
    if found["type"] == "missing":
        return f"{field} is missing, expected {_FIELDS}"
    if found["type"] == "extra_forbidden":
        return f"{field} is no field of a segment, expected {_FIELDS}"
    what = f"{field} is " if field else "got "
    expected = found["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    hint = ". Put it in quotes." if found["type"] == "string_type" else ""
    return f"{what}{reprlib.repr(found['input'])}, {expected}{hint}"
