"""One request to the engine, and what the engine keeps of it while it is active."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.prefix_cache import PrefixCache
from engine.runaway import runs_away
from engine.windows import Schedule, Window


@dataclass(frozen=True)
class Sampling:
    """What the caller asks; ranges are checked at the front door (`ensemble.options`).

    Attributes:
        seed: The result depends on it, the prompt and these options alone.
        temperature: 0 is greedy.
        top_p, repetition_penalty: As upstream.
        max_new_tokens: Frames, at most.
        first_chunk_frames, max_chunk_frames: Of the chunk schedule.
    """

    seed: int = 0
    temperature: float = 0.8
    top_p: float = 0.8
    repetition_penalty: float = 1.1
    max_new_tokens: int = 1024
    first_chunk_frames: int = 8
    max_chunk_frames: int = 64


@dataclass(frozen=True)
class Request:
    """Attributes:
    prompt: int32 (1 + codebooks, positions).
    sampling: Options.
    on_window: Called in order with each window of codes; must not block.
    on_error: Called at most once, instead of the last window.
    why_over: Asked once per frame: why nobody waits for the rest any more, or "".
    prefix_length: Positions of the prompt that depend on the voice alone, shared between requests.
    """

    prompt: np.ndarray
    sampling: Sampling
    on_window: Callable[[Window], None]
    on_error: Callable[[Exception], None]
    why_over: Callable[[], str] = field(default=lambda: "")
    prefix_length: int = 0


class Active:
    """A request that has a slot: its frames so far and what is left of its budget."""

    def __init__(self, request: Request, max_frames: int, codebooks: int, history: int) -> None:
        sampling = request.sampling
        self.request = request
        self.max_frames = max_frames
        self.schedule = Schedule(sampling.first_chunk_frames, sampling.max_chunk_frames, history)
        self.prompt = torch.from_numpy(request.prompt).long()[None]
        self.prefilled = 0
        self.prefix_key = PrefixCache.key(request.prompt, request.prefix_length)
        self.prefix_length = request.prefix_length if self.prefix_key else 0
        self.num_frames = 0
        self._frames = np.zeros((max_frames, codebooks), np.int64)

    @property
    def needs_voice(self) -> bool:
        """Whether the prompt's prefix is still to be pushed through, a slice of its own."""
        return self.prefilled < self.prefix_length

    @property
    def frames(self) -> np.ndarray:
        """int64 (frames so far, codebooks)."""
        return self._frames[: self.num_frames]

    def add(self, codes: np.ndarray) -> None:
        """One frame more, int64 (codebooks,); hands out the window that it fills."""
        self._frames[self.num_frames] = codes
        self.num_frames += 1
        if self.schedule.due(self.num_frames) and self.num_frames < self.max_frames:
            self.request.on_window(self.schedule.cut(self.frames))

    def over(self) -> str:
        """Why there is to be no further frame, or ""."""
        if self.num_frames == self.max_frames:
            return "length"
        return "runaway" if runs_away(self.frames) else ""

    def finish(self, reason: str) -> None:
        """Hand out what is left, marked as the end."""
        self.request.on_window(self.schedule.cut(self.frames, reason))

    def noise(self, count: int) -> np.ndarray:
        """float32 (count,) from Exp(1), a function of the seed and the frame's number alone."""
        key = np.array([self.request.sampling.seed, self.num_frames], np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key)).standard_exponential
        return np.maximum(draw(count, dtype=np.float32), np.finfo(np.float32).tiny)
