"""What a caller may ask of a synthesis, checked once, at the front of the LLaMA stage."""

import math
import secrets
from collections.abc import Mapping
from typing import Any

from ensemble.contract.tensors import OPTIONS


def checked_options(asked: Mapping[str, int | float]) -> dict[str, Any]:
    """Defaults filled in, ranges held.

    Args:
        asked: Option name -> value, for those the request has.

    Raises:
        ValueError: Names the option, the value and the range.
    """
    options: dict[str, Any] = {}
    for option in OPTIONS:
        value = asked.get(option.name, option.default)
        if value is None:
            value = secrets.randbits(63)
        if not math.isfinite(value) or not option.low <= value <= option.high:
            raise ValueError(
                f"{option.name} is {value:g}, expected {option.low:g} to {option.high:g}."
            )
        options[option.name] = value
    return options
