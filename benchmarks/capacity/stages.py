"""The times of a replica's stages, each alone on its machine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

FIRST_FRAMES = 8  # of the first window at default options


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


def stages_of(service: Service | Stages) -> Stages:
    """A whole replica's times as those of its stages.

    What a step of all takes beyond the LLaMA stage's own (`llama_s`, if it was measured) is the
    decoder's; what one stream's first audio takes beyond both lies beside.
    """
    if isinstance(service, Stages):
        return service
    whole_s, llama_s = service.step_s, getattr(service, "llama_s", service.step_s)

    def decode_s(frames: int, windows: int, streams: int) -> float:
        return frames * max(0.0, whole_s(streams) - llama_s(streams)) / streams

    alone_s = FIRST_FRAMES * llama_s(1) + decode_s(FIRST_FRAMES, 1, 1)
    beside_s = max(0.0, service.first_s(1, p95=False) - alone_s)
    return Stages(service.slots, llama_s, decode_s, beside_s=beside_s)
