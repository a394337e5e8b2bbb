"""What a caller asks of the LLaMA stage."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ensemble.contract.window import Window


@dataclass(frozen=True)
class Sampling:
    """Options of one request; `ensemble.contract.options` checks their ranges.

    Attributes:
        seed: The result depends on it, the prompt and these options alone.
        temperature: 0 is greedy.
        top_p, repetition_penalty: The meaning is upstream's.
        max_new_tokens: Frames, at most.
        first_chunk_frames, max_chunk_frames: See `engine.schedule.chunk_schedule`.
    """

    seed: int = 0
    temperature: float = 0.8
    top_p: float = 0.8
    repetition_penalty: float = 1.1
    max_new_tokens: int = 1024
    first_chunk_frames: int = 8
    max_chunk_frames: int = 0


@dataclass(frozen=True)
class Request:
    """Attributes:
    prompt: int32 (1 + codebooks, positions).
    sampling: Options.
    on_window: Called in order with each window of codes; must not block.
    on_error: Called at most once, instead of the last window.
    why_cancelled: Called once per step: why the rest is no longer wanted, "" if it is.
    prefix_length: Positions of the prompt that depend on the voice alone, shared between requests.
    """

    prompt: np.ndarray
    sampling: Sampling
    on_window: Callable[[Window], None]
    on_error: Callable[[Exception], None]
    why_cancelled: Callable[[], str] = field(default=lambda: "")
    prefix_length: int = 0
