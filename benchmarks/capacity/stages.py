"""The times of a replica's stages, each alone on its machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


class Service(Protocol):
    """The times of a replica as a whole; `voicereel.capacity.Machine` is such."""

    @property
    def slots(self) -> int: ...
    def step_s(self, streams: float) -> float: ...
    def first_s(self, streams: float, *, p95: bool) -> float: ...


@dataclass(frozen=True)
class Stages:
    """Attributes:
    slots: Requests decoded together, at most.
    step_s: Seconds of a step of the LLaMA stage, by its streams.
    decode_s: Seconds of a batch of the decoder, by its new frames, its windows and the streams.
    prompt_s: Of a prompt's way through the slow transformer, in the step in which it joins.
    beside_s: What a first audio takes beside: the way, the prompt's text.
    """

    slots: int
    step_s: Callable[[float], float]
    decode_s: Callable[[int, int, int], float]
    prompt_s: float = 0.0
    beside_s: float = 0.0
