"""What a caller asks of the LLaMA stage."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ensemble.contract.options import LONGEST_CHUNK, Sampling
from ensemble.contract.window import Window


@dataclass(frozen=True)
class Request:
    """Attributes:
    prompt: int32 (1 + codebooks, positions).
    sampling: Options.
    on_window: Called in order with each window of codes; must not block.
    on_error: Called at most once, instead of the last window.
    why_cancelled: Called once per step: why the rest is no longer wanted, "" if it is.
    prefix_length: Positions of the prompt that depend on the voice alone, shared between requests.
    parts: Positions of each part of the prompt, if it has several: speech follows each, and the
        next part continues from it. () is one part.
    patience_s: Seconds that the caller will wait in all; it is refused if it would wait longer for
        a slot alone.
    """

    prompt: np.ndarray
    sampling: Sampling
    on_window: Callable[[Window], None]
    on_error: Callable[[Exception], None]
    why_cancelled: Callable[[], str] = field(default=lambda: "")
    prefix_length: int = 0
    parts: tuple[int, ...] = ()
    patience_s: float = math.inf

    @property
    def is_listened_to(self) -> bool:
        """Whether it may be played while it is made; not if it wants its first chunk in full."""
        return self.sampling.first_chunk_frames < LONGEST_CHUNK
