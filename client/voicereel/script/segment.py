"""Segments of a script: who says what, checked before anything is synthesised."""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from voicereel.errors import InvalidRequest
from voicereel.options import option_tensors
from voicereel.text import broken_character, composed, has_words

MAX_SILENCE_S = 60.0  # a longer silence is taken for a mistake, such as milliseconds
MOST_SEGMENTS = 20_000  # about a day of speech
_FIELDS = "speaker_id, text, options, silence_after_s"


def _whole_characters(value: Any) -> Any:
    """Pass on a text, or a mapping with texts as keys, without half characters."""
    for text in value if isinstance(value, Mapping) else [value]:
        if isinstance(text, str) and (problem := broken_character(text)):
            raise ValueError(problem)
    return value


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("expected at least one visible character")
    return text


def _has_words(text: str) -> str:
    if not has_words(_not_blank(text)):
        raise ValueError("expected at least one letter or digit: no words to say")
    return text


def _known_options(options: dict[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        try:
            option_tensors({name: value})
        except (TypeError, InvalidRequest) as error:
            raise ValueError(f"{name}: {error}") from None
    return options


# Before pydantic, which knows no half characters, and would say so in its own words.
Name = Annotated[StrictStr, BeforeValidator(_whole_characters), AfterValidator(_not_blank)]
Words = Annotated[StrictStr, BeforeValidator(_whole_characters), AfterValidator(_has_words)]


class Segment(BaseModel):
    """What one speaker says in one go.

    Attributes:
        speaker_id: The speaker, a key of the speaker features that the script is spoken with.
        text: What is said.
        options: As in `voicereel.Options`; they override those of the whole script.
        silence_after_s: Seconds until the next segment; None is the script's `silence_s`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    speaker_id: Annotated[Name, AfterValidator(composed)]
    text: Words
    options: Annotated[
        dict[str, StrictInt | StrictFloat | None],
        BeforeValidator(_whole_characters),
        AfterValidator(_known_options),
    ] = Field(default_factory=dict)
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
        source: Name of the script in error messages.
        lines: Line of each segment in the source, from 1, for error messages.

    Raises:
        InvalidRequest: If one is wrong; says which, what it holds and what was expected.
    """
    if not isinstance(segments, Sequence) or isinstance(segments, str | bytes):
        raise InvalidRequest(
            f"{source} is {reprlib.repr(segments)}, expected a list of segments with {_FIELDS}"
        )
    if not segments:
        raise InvalidRequest(f"{source} has no segments, expected at least one")
    if len(segments) > MOST_SEGMENTS:
        raise InvalidRequest(
            f"{source} has {len(segments)} segments, expected at most {MOST_SEGMENTS}. Cut it into "
            "several scripts"
        )
    checked = []
    for index, segment in enumerate(segments):
        where = f"{source}: segment {index + 1}" + (f" (line {lines[index]})" if lines else "")
        try:
            checked.append(Segment.model_validate(segment))
        except ValidationError as error:
            raise InvalidRequest(f"{where}: {_explained(error)}") from None
    return tuple(checked)


def _explained(error: ValidationError) -> str:
    """The first problem that pydantic found, in the words of this package."""
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
