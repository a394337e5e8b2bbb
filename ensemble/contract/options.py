"""What a caller may ask of a synthesis: the one table of names, types, defaults and ranges.

Defaults and ranges follow upstream's API and `generate_long`. Source: fish-speech 0.1.0,
tools/schema.py and models/text2semantic/inference.py. A checkpoint's facts can say other defaults.
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ensemble.contract.facts import Facts

LONGEST_CHUNK = 64  # frames, about 3 s: chunks grow no longer unless the caller asks for it


def _option(dtype: str, default: float, low: float, high: float, drawn: bool = False) -> Any:
    """A field of `Sampling` that carries its `Option`, but for the name."""
    asked = {"dtype": dtype, "default": None if drawn else default, "low": low, "high": high}
    return field(default=default, metadata=asked)


@dataclass(frozen=True)
class Sampling:
    """The options of one request; `sampling_from` fills in the defaults and holds the ranges.

    Attributes:
        seed: The result depends on it, the prompt and these options alone. Drawn at random if the
            request has none.
        temperature: 0 is greedy decoding.
        top_p, repetition_penalty: As upstream.
        top_k: Choices to sample from, at most, the likeliest ones; 0: any number.
        ras_window: Recent frames in which a semantic token is looked for when it has been drawn;
            if it is there, another is drawn (repetition-aware sampling). 0: none.
        max_new_tokens: Frames of audio, at most.
        first_chunk_frames: New frames of the first chunk.
        max_chunk_frames: New frames of every other chunk, at most. 0: chunks grow up to
            LONGEST_CHUNK, as long as each is complete before the one before it has been played.
    """

    seed: int = _option("UINT64", 0, 0, 2**64 - 1, drawn=True)
    temperature: float = _option("FP32", 0.8, 0.0, 2.0)
    top_p: float = _option("FP32", 0.8, 0.0, 1.0)
    repetition_penalty: float = _option("FP32", 1.1, 0.5, 2.0)
    top_k: int = _option("INT32", 0, 0, 4096)
    ras_window: int = _option("INT32", 0, 0, 16)
    max_new_tokens: int = _option("INT32", 1024, 1, 32768)
    first_chunk_frames: int = _option("INT32", 8, 1, 512)
    max_chunk_frames: int = _option("INT32", 0, 0, 512)


@dataclass(frozen=True)
class Option:
    """One field of `Sampling`, as an input tensor of every model that takes options.

    Attributes:
        name: Of the tensor, whose dims are (1,).
        dtype: Triton's name for its type.
        default: Used when the request leaves it out; None draws one at random.
        low: Smallest value accepted.
        high: Largest value accepted.
    """

    name: str
    dtype: str
    default: int | float | None
    low: int | float
    high: int | float


OPTIONS = tuple(Option(option.name, **option.metadata) for option in fields(Sampling))


def options_of(facts: Facts) -> tuple[Option, ...]:
    """The options with the defaults of a checkpoint; of one that it does not take, no range."""
    found = []
    for option in OPTIONS:
        default = facts.option_defaults.get(option.name, option.default)
        option = replace(option, default=default)
        if option.name in facts.fixed_options and default is not None:
            option = replace(option, low=default, high=default)
        found.append(option)
    return tuple(found)


def described(facts: Facts) -> dict[str, Any]:
    """What a caller may want to know of a checkpoint, for JSON."""
    return {
        "family": facts.family,
        "checkpoint_id": facts.checkpoint_id,
        "is_dialogue": facts.is_dialogue,
        "notice": facts.notice,
        "letters_per_request": facts.letters_per_request,
        "letters_per_s": list(facts.letters_per_s),
        "options": {
            option.name: {"default": option.default, "low": option.low, "high": option.high}
            for option in options_of(facts)
        },
    }


def sampling_from(asked: Mapping[str, int | float], facts: Facts | None = None) -> Sampling:
    """Fill in the defaults and hold the ranges.

    Args:
        asked: Option name -> value, for those the request has.
        facts: Of the checkpoint; None: what is said above holds.

    Raises:
        ValueError: Names the option, the value and the range.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS if facts is None else options_of(facts):
        value = asked.get(option.name, option.default)
        if value is None:
            value = secrets.randbits(63)
        if facts is not None and option.name in facts.fixed_options and value != option.default:
            raise ValueError(
                f"{option.name} is {value:g}, but checkpoints of the family {facts.family} are "
                f"sampled without it. Leave it out; there are {', '.join(facts.option_defaults)}."
            )
        if not math.isfinite(value) or not option.low <= value <= option.high:
            raise ValueError(
                f"{option.name} is {value:g}, expected {option.low:g} to {option.high:g}."
            )
        values[option.name] = value
    return Sampling(**values)
