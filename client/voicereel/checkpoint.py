"""What a server's checkpoint is: its family, and the defaults of its options."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

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
    try:
        said = json.loads(outputs["checkpoint"].item())
        options = {name: option["default"] for name, option in said["options"].items()}
        defaults = {name: value for name, value in options.items() if value is not None}
        names = ("family", "checkpoint_id", "is_dialogue")
        family, checkpoint_id, is_dialogue = (said[name] for name in names)
        return Checkpoint(family, checkpoint_id, is_dialogue, defaults, said["notice"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError(
            f"fish_checkpoint: cannot be read ({error!r}): are client and server of one version?"
        ) from None
