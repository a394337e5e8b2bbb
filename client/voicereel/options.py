"""What a caller may ask of a synthesis, one entry for each option.

Everything else about an option is derived from its entry: keyword of the client, field of a script
file, flag of the command line, input tensor and check. The server has a table of its own
(ensemble/contract/options.py of voicereel-triton); a test holds the two equal.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, get_type_hints

import numpy as np

from voicereel.errors import InvalidRequest


@dataclass(frozen=True)
class Option:
    """What the server takes for one option.

    Attributes:
        dtype: Of the input tensor, which has the shape (1, 1) and the option's name.
        low: Smallest value accepted.
        high: Largest value accepted.
        meaning: One sentence for the help of the command line.
    """

    dtype: type[np.generic]
    low: int | float
    high: int | float
    meaning: str

    @property
    def is_float(self) -> bool:
        return issubclass(self.dtype, np.floating)

    @property
    def range(self) -> str:
        """The accepted values in words, for messages and help."""
        return f"{self.low:g} to {self.high:g}" if self.is_float else f"{self.low} to {self.high}"


class Options(TypedDict, total=False):
    """How to speak. The server has a default for every option that is left out or None."""

    seed: Annotated[
        int | None,
        Option(np.uint64, 0, 2**64 - 1, "Same seed, same audio; drawn at random if left out."),
    ]
    temperature: Annotated[
        float | None,
        Option(np.float32, 0.0, 2.0, "How freely to vary; 0 always takes the likeliest token."),
    ]
    top_p: Annotated[
        float | None,
        Option(np.float32, 0.0, 1.0, "Share of the probability to sample from."),
    ]
    repetition_penalty: Annotated[
        float | None,
        Option(np.float32, 0.5, 2.0, "Above 1: recent tokens become less likely."),
    ]
    top_k: Annotated[
        int | None,
        Option(np.int32, 0, 4096, "Likeliest choices to sample from, at most; 0: any number."),
    ]
    ras_window: Annotated[
        int | None,
        Option(np.int32, 0, 16, "Frames whose tokens are drawn again if they repeat; 0: none."),
    ]
    max_new_tokens: Annotated[
        int | None,
        Option(np.int32, 1, 32768, "Frames of audio per request, at most; 21.5 are a second."),
    ]
    first_chunk_frames: Annotated[
        int | None,
        Option(np.int32, 1, 512, "Frames of the first streamed chunk; fewer are heard sooner."),
    ]
    max_chunk_frames: Annotated[
        int | None,
        Option(np.int32, 0, 512, "Frames of a streamed chunk, at most; 0: as playback allows."),
    ]


_HINTS = get_type_hints(Options, include_extras=True)
OPTIONS: dict[str, Option] = {name: hint.__metadata__[0] for name, hint in _HINTS.items()}
PYTHON_TYPES: dict[str, Any] = {name: hint.__origin__ for name, hint in _HINTS.items()}


def option_tensors(options: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The options that were given, checked, as input tensors.

    Raises:
        TypeError: If there is no such option, or its value is of another type.
        InvalidRequest: If a value is out of range.
    """
    unknown = options.keys() - OPTIONS.keys()
    if unknown:
        raise TypeError(f"no option {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    return {
        name: np.array([[_checked(name, value)]], OPTIONS[name].dtype)
        for name, value in options.items()
        if value is not None
    }


def _checked(name: str, value: Any) -> int | float:
    option = OPTIONS[name]
    number = float(value) if option.is_float else operator.index(value)
    if not option.low <= number <= option.high:  # NaN is out of every range
        got = f"{number:g}" if option.is_float else number
        raise InvalidRequest(f"{name} is {got}, expected {option.range}")
    return number
