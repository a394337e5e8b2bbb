"""One request's generation: its frames so far, and what is still to be computed for it."""

import time

import numpy as np
import torch
from torch import Tensor

from engine.lm.runner import PENALTY_FRAMES, Draw
from engine.schedule.chunk_schedule import ChunkSchedule
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.request import Request
from engine.schedule.runaway import runs_away
from ensemble.contract.facts import Facts
from ensemble.contract.window import Window


class Generation:
    """From a request's arrival to its last window.

    Attributes:
        prompt: int64 (1 + codebooks, positions), what is run before the next frame is sampled.
        turn_begin: Frames before those that answer the current part of the request's prompt.
        prefilled: How many of them the request's row of the cache holds.
        arrived_s: When it came, by the monotonic clock.
        begun_s: When it was first given a row; None while it waits for that.
        played_s: When a listener will have played all windows so far, by the monotonic clock.
        kept: Keys and values of the first positions, (layers, kv heads, positions, head_dim) each,
            if the request had to give its row back.
    """

    def __init__(self, request: Request, facts: Facts) -> None:
        sampling = request.sampling
        room = min(facts.max_seq_len - request.prompt.shape[1], facts.max_frames)
        self.request = request
        self.arrived_s = time.monotonic()
        self.begun_s: float | None = None
        self.played_s = 0.0
        self.parity = facts.full_vocabulary
        # Upstream's `generate_long` takes the last frame for the end and cuts it.
        self.max_frames = max(1, min(sampling.max_new_tokens, room) - self.parity)
        self.schedule = ChunkSchedule(
            sampling.first_chunk_frames,
            sampling.max_chunk_frames,
            facts.history_frames,
            facts.samples_per_frame / facts.sample_rate,
        )
        table = torch.from_numpy(request.prompt).long()
        first, *self._parts_to_come = table.split(request.parts or table.shape[1], dim=1)
        self.prompt = self._before = first  # the turn's frames
        self.turn_begin = 0
        self.prefilled = 0
        self.kept: tuple[Tensor, Tensor] | None = None
        self.prefix_key = PrefixCache.key(request.prompt, request.prefix_length)
        self.prefix_length = request.prefix_length if self.prefix_key else 0
        self.num_frames = 0
        # In front of them what `recent` has for frames that there are not.
        extents = PENALTY_FRAMES + self.max_frames, request.prompt.shape[0]
        self._columns = np.full(extents, -1, np.int64)

    @property
    def positions_needed(self) -> int:
        """Positions of the cache that it may need in all."""
        return self.request.prompt.shape[1] + self.max_frames

    @property
    def positions_cached(self) -> int:
        """Positions that a row holds whose frames so far have all been sampled.

        The last of prompt and frames is not among them: the next frame is sampled from it.
        """
        return self._before.shape[1] + self.num_frames - self.turn_begin - 1

    @property
    def positions_left(self) -> int:
        """Positions of the prompt that are still to be run."""
        return self.prompt.shape[1] - self.prefilled

    @property
    def needs_prefix(self) -> bool:
        """Whether the prompt's shared prefix is still to be run, in slices of its own."""
        return self.prefilled < self.prefix_length

    @property
    def columns(self) -> np.ndarray:
        """int64 (frames so far, 1 + codebooks), each a token and its codes."""
        return self._columns[PENALTY_FRAMES : PENALTY_FRAMES + self.num_frames]

    @property
    def frames(self) -> np.ndarray:
        """int64 (frames so far, codebooks)."""
        return self.columns[:, 1:]

    @property
    def draw(self) -> Draw:
        """What the random numbers of its next frame are a function of."""
        return Draw(self.request.sampling.seed, self.num_frames)

    def recent(self) -> np.ndarray:
        """int64 (1 + codebooks, PENALTY_FRAMES): the penalty applies to these; -1 is none.

        Upstream (`decode_n_tokens`) leaves the first frame out, and has zeros for frames to come.
        """
        if not self.parity:
            return self._columns[self.num_frames : self.num_frames + PENALTY_FRAMES].T
        blank = 0 if self.num_frames else -1
        recent = np.full((self._columns.shape[1], PENALTY_FRAMES), blank, np.int64)
        known = self.columns[1:][-PENALTY_FRAMES:].T
        recent[:, : known.shape[1]] = known
        return recent

    def said_recently(self) -> np.ndarray:
        """Tokens that repetition-aware sampling does not take at once: int64 (up to ras_window,).

        As upstream's main has it, the first frame of a turn is not among them, nor is another
        turn's.
        """
        sampling = self.request.sampling
        window = sampling.ras_window if sampling.temperature > 0 else 0
        begin = max(self.turn_begin + 1, self.num_frames - window)
        return self.columns[begin:, 0]

    def add(self, column: np.ndarray) -> None:
        """Append a frame, int64 (1 + codebooks,)."""
        self._columns[PENALTY_FRAMES + self.num_frames] = column
        self.num_frames += 1

    def finish_reason(self) -> str:
        """Why there is to be no further frame, or ""."""
        if self.num_frames == self.max_frames:
            return "length"
        return "runaway" if not self.parity and runs_away(self.frames) else ""

    def due_window(self, step: int, batch_size: int) -> Window | None:
        """Cut the next window if it is due: see `ChunkSchedule.due`."""
        due = self.schedule.due(self.num_frames, step, batch_size)
        return self.schedule.cut(self.frames) if due else None

    def last_window(self, reason: str) -> Window:
        """Cut what is left, marked as the end."""
        return self.schedule.cut(self.frames, reason)

    def give_row_back(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """Prepare to continue in another row, from the frames so far and these keys and values.

        The last position is run again, since the next frame is sampled from its logits.
        """
        frames = torch.from_numpy(self.columns[self.turn_begin :].T)
        self.prompt = torch.cat([self._before, frames], dim=1)
        self.prefilled = 0
        if keys is not None and values is not None:
            self.kept = keys, values

    @property
    def has_more_parts(self) -> bool:
        """Whether the current turn's end is not the speech's."""
        return bool(self._parts_to_come)

    def take_next_part(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        """Prepare to answer the next part of the prompt, behind all that was said.

        Args:
            keys, values: As for `give_row_back`.
        """
        self.give_row_back(keys, values)
        self.prompt = self._before = torch.cat([self.prompt, self._parts_to_come.pop(0)], dim=1)
        self.turn_begin = self.num_frames
