"""One step of the LLaMA stage: a frame for every active request, and prompts of those that join."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from engine.lm.runner import NewPositions, Runner
from engine.schedule.batch import Batch
from engine.schedule.chunk_schedule import of_equal_shape
from engine.schedule.generation import Generation
from engine.schedule.repeats import SecondDraw, second_draw, without_repeats
from ensemble.contract.window import Window

PREFILL_SLICE = 512  # prompt positions per step; running streams wait for no more than this


class Slice(NamedTuple):
    """Positions of a request's prompt to be run in this step: from `prefilled` to `end`."""

    generation: Generation
    end: int


class _Draw(NamedTuple):
    """What the choices of a step are made with, of all rows that are computed.

    Attributes:
        previous: int64 (rows, 1 + codebooks, PENALTY_FRAMES), see `Generation.recent`.
        slow_noise, fast_noise: See `Runner.noise`.
        second: See `repeats.second_draw`.
    """

    previous: Tensor
    slow_noise: Tensor
    fast_noise: Tensor
    second: SecondDraw | None


class Stepper:
    """Takes steps for a batch.

    Attributes:
        frames: Generated so far.
        steps: So far, by batch size, rounded up to a power of two.
        seconds: Spent so far, by phase.
        windows: Cut so far.
        last_count: Requests that got a frame in the last step.
        number: Steps so far in which any did.
    """

    def __init__(self, runner: Runner, batch: Batch, prefill_slice: int = PREFILL_SLICE) -> None:
        self._runner, self._batch, self._prefill_slice = runner, batch, prefill_slice
        self.number = self.last_count = 0
        self.reset_stats()

    def reset_stats(self) -> None:
        """Count from zero again."""
        self.frames = self.windows = 0
        self.steps: Counter[int] = Counter()
        self.seconds: dict[str, float] = {}

    @torch.inference_mode()
    def step(self, waiting: deque[Generation]) -> list[tuple[Generation, Window]]:
        """Schedule, run, postprocess.

        Args:
            waiting: Requests without a row; those that are admitted leave it.

        Returns:
            The windows that were due.
        """
        slices = self._schedule(waiting)
        chosen = self._run(slices)
        due, next_turns = self._postprocess(chosen)
        waiting.extendleft(next_turns)
        return due

    def _schedule(self, waiting: deque[Generation]) -> list[Slice]:
        """Admit requests, and choose the prompt positions of this step.

        Either the prompts of several requests are run to their ends, if there is little left of
        them, or a slice of one.
        """
        batch = self._batch
        if not batch.prefilling:
            self._admit(waiting)
        if batch.joining:
            return [Slice(generation, generation.prompt.shape[1]) for generation in batch.joining]
        if generation := batch.prefilling:
            # A prefix has slices of its own: the rest is then the same, cached or not.
            whole = generation.prompt.shape[1]
            end = generation.prefix_length if generation.needs_prefix else whole
            return [Slice(generation, min(generation.prefilled + self._prefill_slice, end))]
        return []

    def _admit(self, waiting: deque[Generation]) -> None:
        """Give rows to waiting requests, in order.

        One that does not fit yet keeps its place at the head of the queue. The first that needs
        more than one slice is left in `prefilling`.
        """
        batch, longest = self._batch, 0
        batch.cache.likely = len(batch.members()) + len(waiting)
        while waiting and batch.fits(generation := waiting[0]):
            batch.admit(generation)  # it leaves the queue afterwards, in case memory runs out
            waiting.popleft()
            longest = max(longest, generation.positions_left)
            padded = (1 + len(batch.joining)) * longest
            if generation.needs_prefix or padded > self._prefill_slice:
                batch.prefilling = generation
                break
            batch.joining.append(generation)

    def _run(self, slices: list[Slice]) -> np.ndarray:
        """Run prompts, decode, sample.

        Returns:
            int64 (active requests, 2 + codebooks): choice among the logits, token, codes.
        """
        decoding = len(self._batch.active)
        if slices:
            self._prefill(slices)
        if not self._batch.active:
            return np.zeros((0, 2 + self._runner.facts.num_codebooks), np.int64)
        if decoding:
            self._decode(decoding)
        with self._timed("sample"):  # a GPU is busy with the frames meanwhile
            draw = self._draw(len(self._batch.active))
        return self._sample(len(self._batch.active), draw)

    def _prefill(self, slices: list[Slice]) -> None:
        """Run slices of prompts; requests whose prompts end here become active."""
        batch, row = self._batch, len(self._batch.active)
        columns = [g.prompt[:, g.prefilled : end] for g, end in slices]
        times = torch.tensor([c.shape[1] for c in columns])
        tokens = pad_sequence([c.T for c in columns], batch_first=True).transpose(1, 2)
        logits, state = self._extend("prefill", row, tokens, times)
        batch.joining.clear()
        for i, (generation, end) in enumerate(slices):
            generation.prefilled = end
            if end == generation.prefix_length:
                batch.prefixes.put(generation.prefix_key, *batch.cache.row(row + i))
            if end == generation.prompt.shape[1]:
                batch.activate(generation, logits[i], state[i])

    def _decode(self, count: int) -> None:
        """Run the last frames of rows 0 to count - 1."""
        rows = self._batch.rows
        computed = self._runner.rows_for(count, self._batch.slots)
        tokens = np.zeros((computed, 1 + self._runner.facts.num_codebooks, 1), np.int64)
        for row, generation in zip(tokens, self._batch.active[:count], strict=False):
            row[:, 0] = generation.columns[-1]
        times = torch.ones(count, dtype=torch.int64)
        logits, state = self._extend("decode_step", 0, torch.from_numpy(tokens), times)
        rows.logits[:count], rows.state[:count] = logits[:count], state[:count]

    def _extend(
        self, phase: str, first: int, tokens: Tensor, times: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run new positions through the slow transformer.

        Args:
            phase: What the time is counted as.
            first: The first row.
            tokens: int64 (rows, 1 + codebooks, time), padded on the right. Rows beyond those of
                `times` are padding, and computed as well: what that writes behind the positions of
                a request in prefill is overwritten by its next slice. The same holds for positions
                that fill up a slice (`Runner.positions_for`).
            times: int64 (rows,), positions of each row that count.

        Returns:
            Logits and the fast transformer's input at the last position of each row.
        """
        cache, runner = self._batch.cache, self._runner
        count, time = len(times), tokens.shape[2]
        padding = len(tokens) - count
        rows = slice(first, first + len(tokens))
        computed = runner.positions_for(time)
        if int(cache.lengths[rows].max()) + computed > cache.row_limit:
            computed = time
        with self._timed(phase):
            past, keys, values = cache.room(rows, computed)
            tokens = F.pad(tokens, (0, computed - time)) if computed > time else tokens
            times = F.pad(times, (0, padding), value=time) if padding else times
            given, lengths, pasts = runner.to_device(tokens, times, past)
            is_shared = runner.reads_shared and not padding
            shared = shared_prefixes(self._batch.members()[rows]) if is_shared else None
            ends = runner.extend(NewPositions(given, lengths, pasts, keys, values, shared))
        cache.lengths[first : first + count] += times[:count]
        return ends

    def _draw(self, count: int) -> _Draw:
        """What choices are made with."""
        runner, active = self._runner, self._batch.active
        computed = runner.rows_for(count, self._batch.slots)
        slow_noise, fast_noise = runner.noise([g.draw for g in active], computed)
        recent = [g.recent() for g in active]
        recent += [np.full_like(recent[0], -1)] * (computed - count)
        (previous,) = runner.to_device(torch.from_numpy(np.stack(recent)))
        return _Draw(previous, slow_noise, fast_noise, second_draw(runner, active, computed))

    def _sample(self, count: int, draw: _Draw) -> np.ndarray:
        """Choose a token and the codes of a frame for every active request."""
        runner, rows, active = self._runner, self._batch.rows, self._batch.active
        computed = len(draw.previous)
        logits, top_k = rows.logits[:computed], rows.top_k[:computed]
        temperature, top_p, penalty = rows.options[:, :computed].unbind()
        options = temperature, top_p, penalty
        more = (top_k,) if any(g.request.sampling.top_k for g in active) else ()
        with self._timed("sample"):
            previous = runner.vocabulary.previous_choices(draw.previous)
            choices = runner.sample_token(logits, previous, *options, draw.slow_noise, *more)
            if draw.second is not None:
                choices = without_repeats(runner, draw.second, logits, choices, top_k)
            tokens = runner.vocabulary.token_of(choices)
        with self._timed("fast_loop"):
            semantic = runner.vocabulary.semantic_code(tokens)
            codes, _ = runner.fast_loop(
                rows.state[:computed], semantic, draw.previous[:, 2:], *options, draw.fast_noise,
                *more,
            )  # fmt: skip
            chosen = torch.cat([choices[:, None], tokens[:, None], codes], dim=1).cpu().numpy()
        return chosen[:count]

    def _postprocess(
        self, chosen: np.ndarray
    ) -> tuple[list[tuple[Generation, Window]], list[Generation]]:
        """Add the frames, cut the windows that are due, retire the requests that have ended.

        Returns:
            The windows, and the requests whose turn has ended and that have another one to speak.
        """
        active, count = self._batch.active, len(chosen)
        self.last_count = count
        if not count:
            return [], []
        self.frames += count
        self.steps[1 << (count - 1).bit_length()] += 1
        self.number += 1
        due: list[tuple[Generation, Window]] = []
        next_turns: list[Generation] = []
        longest = max(generation.num_frames for generation in active) + 1
        for row in reversed(range(count)):
            generation = active[row]
            is_end = chosen[row, 0] == self._runner.vocabulary.end_choice
            # Upstream does not look at the first one.
            if is_end and generation.num_frames > generation.turn_begin:
                if generation.has_more_parts:
                    next_turns.append(self._batch.continue_turns(row))
                    continue
                reason = "stop"
            else:
                generation.add(chosen[row, 1:])
                reason = generation.finish_reason()
            if reason:
                self._batch.end(row)
                due.append((generation, generation.last_window(reason)))
            elif window := generation.due_window(self.number, count):
                due.append((generation, window))
        self.windows += len(due)
        windows = of_equal_shape([w for _, w in due], longest, count, self._runner.facts)
        return list(zip((generation for generation, _ in due), windows, strict=True)), next_turns

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin


def shared_prefixes(members: list[Generation]) -> Tensor:
    """For each row, the first one with the same prefix, and its positions: int64 (2, rows)."""
    leads: dict[bytes, int] = {}
    shared = [(leads.setdefault(m.prefix_key, i), m.prefix_length) for i, m in enumerate(members)]
    return torch.tensor(shared).T
