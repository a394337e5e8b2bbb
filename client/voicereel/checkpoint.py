"""What a server's checkpoint is: its family, and the defaults of its options."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from voicereel.errors import ServerError
from voicereel.transport.base import Tensors


@dataclass(frozen=True)
class Checkpoint:
    """Attributes:
    family: "fish_s1", "fish_s2", ...
    checkpoint_id: As in `VoiceFeatures`.
    is_dialogue: Whether one request can have turns of several speakers.
    defaults: Of every option that has one.
    notice: What whoever serves the weights must show; "" for nothing.
    """

    family: str
    checkpoint_id: str
    is_dialogue: bool
    defaults: Mapping[str, float]
    notice: str


def checkpoint_from(outputs: Tensors) -> Checkpoint:
    """Read the answer of fish_checkpoint.

    Raises:
        ServerError: If it is of another version.
    """
    said = described_in(outputs)
    try:
        options = {name: option["default"] for name, option in said["options"].items()}
        defaults = {n: _of(value, int, float) for n, value in options.items() if value is not None}
        family, checkpoint_id, notice = (
            _of(said[name], str) for name in ("family", "checkpoint_id", "notice")
        )
        return Checkpoint(family, checkpoint_id, _of(said["is_dialogue"], bool), defaults, notice)
    except (KeyError, TypeError, AttributeError) as error:
        raise _unreadable(error) from None


def described_in(outputs: Tensors) -> dict[str, Any]:
    """The JSON object that fish_checkpoint answers; errors are those of `checkpoint_from`."""
    try:
        said = json.loads(outputs["checkpoint"].item())
        return dict(_of(said, dict))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _unreadable(error) from None


def _of(value: Any, *kinds: type) -> Any:
    """The value, if it is of one of these types."""
    if type(value) not in kinds:
        raise TypeError(f"{type(value).__name__}, expected {kinds[0].__name__}")
    return value


def _unreadable(error: Exception) -> ServerError:
    return ServerError(
        f"fish_checkpoint: cannot be read ({repr(error)[:200]}): are client and server of one "
        "version?"
    )
