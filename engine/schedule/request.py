"""One request to the engine, and what the engine keeps of it while it is active."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.lm.sampler import WINDOW
from engine.schedule.chunk_schedule import Schedule, Window
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.runaway import runs_away
from ensemble.contract.facts import Facts
from ensemble.contract.options import Sampling


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
    """A request on its way: its frames so far, what is left of its budget, what is to be computed.

    Attributes:
        prompt: int64 (1 + codebooks, positions), all that goes before the next frame sampled.
        prefilled: Positions of it that the request's row of the cache has.
        kept: Keys and values of the first positions, (layers, kv heads, positions, head_dim) each,
            of one who had to give his row back.
    """

    def __init__(self, request: Request, facts: Facts) -> None:
        sampling = request.sampling
        room = min(facts.max_seq_len - request.prompt.shape[1], facts.max_frames)
        self.request = request
        self.parity = facts.full_vocabulary
        # Upstream's `generate_long` takes the last frame for the end and cuts it.
        self.max_frames = max(1, min(sampling.max_new_tokens, room) - self.parity)
        self.schedule = Schedule(
            sampling.first_chunk_frames,
            sampling.max_chunk_frames,
            facts.history_frames,
            facts.samples_per_frame / facts.sample_rate,
        )
        self.prompt = torch.from_numpy(request.prompt).long()
        self.prefilled = 0
        self.kept: tuple[Tensor, Tensor] | None = None
        self.prefix_key = PrefixCache.key(request.prompt, request.prefix_length)
        self.prefix_length = request.prefix_length if self.prefix_key else 0
        self.num_frames = 0
        self._columns = np.zeros((self.max_frames, request.prompt.shape[0]), np.int64)

    @property
    def need(self) -> int:
        """Positions that it will have in the cache, at most."""
        return self.request.prompt.shape[1] + self.max_frames

    @property
    def needs_voice(self) -> bool:
        """Whether the prompt's prefix is still to be pushed through, a slice of its own."""
        return self.prefilled < self.prefix_length

    @property
    def left(self) -> int:
        """Positions of the prompt still to be pushed through."""
        return self.prompt.shape[1] - self.prefilled

    @property
    def columns(self) -> np.ndarray:
        """int64 (frames so far, 1 + codebooks), each a token and its codes."""
        return self._columns[: self.num_frames]

    @property
    def frames(self) -> np.ndarray:
        """int64 (frames so far, codebooks)."""
        return self.columns[:, 1:]

    def window(self) -> np.ndarray:
        """int64 (1 + codebooks, WINDOW): what the repetition penalty looks back on, -1 for none.

        Upstream (`decode_n_tokens`) leaves the first frame out, and zeros stand for those to come.
        """
        blank = 0 if self.parity and self.num_frames else -1
        window = np.full((self._columns.shape[1], WINDOW), blank, np.int64)
        late = self.columns[self.parity :][-WINDOW:].T
        window[:, : late.shape[1]] = late
        return window

    def add(self, column: np.ndarray) -> None:
        """One frame more, int64 (1 + codebooks,)."""
        self._columns[self.num_frames] = column
        self.num_frames += 1

    def cut(self, step: int, company: int) -> Window | None:
        """The next window, if it is due: see `Schedule.due`."""
        due = self.schedule.due(self.num_frames, step, company)
        return self.schedule.cut(self.frames) if due else None

    def give_row_back(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """Begin anew, later, in another row, with these keys and values and the frames so far.

        The last position is pushed through again: what is sampled from lies behind it.
        """
        first = self.prompt[:, : self.request.prompt.shape[1]]
        self.prompt = torch.cat([first, torch.from_numpy(self.columns.T)], dim=1)
        self.prefilled = 0
        if keys is not None and values is not None:
            self.kept = keys, values

    def over(self) -> str:
        """Why there is to be no further frame, or ""."""
        if self.num_frames == self.max_frames:
            return "length"
        return "runaway" if not self.parity and runs_away(self.frames) else ""

    def finish(self, reason: str) -> Window:
        """What is left, marked as the end."""
        return self.schedule.cut(self.frames, reason)

    def noise(self, count: int) -> np.ndarray:
        """float32 (count,) from Exp(1), a function of the seed and the frame's number alone."""
        key = np.array([self.request.sampling.seed, self.num_frames], np.uint64)
        draw = np.random.Generator(np.random.Philox(key=key)).standard_exponential
        return np.maximum(draw(count, dtype=np.float32), np.finfo(np.float32).tiny)
