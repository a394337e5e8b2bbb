"""What a caller may ask of a synthesis: the one table of names, types, defaults and ranges.

Defaults and ranges follow upstream's API and `generate_long`. Source: fish-speech 0.1.0,
tools/schema.py and models/text2semantic/inference.py.
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

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
        max_new_tokens: Frames of audio, at most.
        first_chunk_frames: New frames of the first chunk.
        max_chunk_frames: New frames of every other chunk, at most. 0: chunks grow up to
            LONGEST_CHUNK, as long as each is complete before the one before it has been played.
    """

    seed: int = _option("UINT64", 0, 0, 2**64 - 1, drawn=True)
    temperature: float = _option("FP32", 0.8, 0.0, 2.0)
    top_p: float = _option("FP32", 0.8, 0.0, 1.0)
    repetition_penalty: float = _option("FP32", 1.1, 0.5, 2.0)
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


def sampling_from(asked: Mapping[str, int | float]) -> Sampling:
    """Fill in the defaults and hold the ranges.

    Args:
        asked: Option name -> value, for those the request has.

    Raises:
        ValueError: Names the option, the value and the range.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS:
        value = asked.get(option.name, option.default)
        if value is None:
            value = secrets.randbits(63)
        if not math.isfinite(value) or not option.low <= value <= option.high:
            raise ValueError(
                f"{option.name} is {value:g}, expected {option.low:g} to {option.high:g}."
            )
        values[option.name] = value
    return Sampling(**values)
