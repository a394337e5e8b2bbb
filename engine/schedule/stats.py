"""What the LLaMA stage publishes of itself."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class PrefixStats:
    """What the prefix cache did so far, for metrics."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    num_bytes: int = 0


@dataclass(frozen=True)
class EngineStats:
    """A snapshot after a step.

    Attributes:
        slots: Requests decoded together, at most.
        active, waiting: Requests that get a frame in every step, and those in the queue.
        kv_bytes, kv_bytes_limit: Memory that keys and values take now, and at most.
        prefixes: Of the prefix cache.
        frames: Generated so far.
        steps: So far, by batch size, rounded up to a power of two.
        in_time: Streams that are admitted together, at most.
        expected_wait_s: Until a request that comes now has a slot.
        seconds: Spent so far, by phase; those of a GPU show where its results are awaited.
    """

    slots: int
    active: int
    waiting: int
    kv_bytes: int
    kv_bytes_limit: int
    prefixes: PrefixStats
    frames: int
    steps: Mapping[int, int]
    seconds: Mapping[str, float]
    expected_wait_s: float = 0.0
    in_time: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether no request is active or waits."""
        return not (self.active or self.waiting)
