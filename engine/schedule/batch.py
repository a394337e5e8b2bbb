"""The running batch: which request has which row, and what moves when one leaves."""

import time
from collections.abc import Iterable

import torch
from torch import Tensor

from engine.lm.runner import Runner
from engine.schedule.generation import Generation
from engine.schedule.kv_cache import KVCache
from engine.schedule.memory import out_of_memory
from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.queue_time import ServiceTime
from engine.schedule.request import Request
from engine.schedule.rows import Rows


class Batch:
    """Rows 0..n-1 of every per-row tensor belong to the n active requests; requests in prefill use
    the rows after them.

    Attributes:
        slots: Rows, at most.
        active: Requests that get a frame in every step.
        joining: Requests whose prompts are run together, within one step.
        prefilling: A request whose prompt takes several steps.
        rows, cache: The per-row tensors.
        prefixes: Keys and values that requests share.
        service: How long requests keep a row.
        in_time: Rows, at most, while one of them is listened to; None: all slots.
    """

    def __init__(self, runner: Runner, slots: int, max_positions: int | None = None) -> None:
        self._runner, self.slots, self._max_positions = runner, slots, max_positions
        self.in_time: int | None = None
        self.active: list[Generation] = []
        self.joining: list[Generation] = []
        self.prefilling: Generation | None = None
        self.rows = Rows(runner, slots)
        self.prefixes, self.service = PrefixCache(), ServiceTime()
        self.cache = self._new_cache()

    def _new_cache(self) -> KVCache:
        runner = self._runner
        limit, fixed = runner.facts.max_seq_len, runner.fixed_positions
        return KVCache(runner.new_cache, self.slots, limit, self._max_positions, fixed)

    def members(self) -> list[Generation]:
        """The requests that have a row, in the order of their rows."""
        return [*self.active, *self.joining, *([self.prefilling] if self.prefilling else [])]

    def fits(self, generation: Generation) -> bool:
        """Whether there is a row for one more request, and memory for all to their ends."""
        members = self.members()
        needs = [member.positions_needed for member in (*members, generation)]
        # One that has begun is heard already: to make it wait for others is a gap in any case.
        has_begun = generation.begun_s is not None
        rows = self.slots if has_begun else self.places([generation.request])
        return len(members) < rows and self.cache.fits(needs)

    def places(self, joining: Iterable[Request] = ()) -> int:
        """Rows that members and those who join may have, so that who listens hears no gap.

        The only request always has one. Requests that nobody listens to have all slots, as long as
        no other is listened to.
        """
        requests = (*(member.request for member in self.members()), *joining)
        if self.in_time is None or not any(request.is_listened_to for request in requests):
            return self.slots
        return max(1, min(self.slots, self.in_time))

    def admit(self, generation: Generation) -> None:
        """Give a request the next row, and what is known already of its keys and values."""
        row, sampling = len(self.members()), generation.request.sampling
        generation.begun_s = generation.begun_s or time.monotonic()
        self.cache.lengths[row] = 0
        self.rows.begin(
            row, sampling.temperature, sampling.top_p, sampling.repetition_penalty, sampling.top_k
        )
        if known := generation.kept or self.prefixes.get(generation.prefix_key):
            self.cache.extend(row, *known)
            generation.prefilled = known[0].shape[2]

    def activate(self, generation: Generation, logits: Tensor, state: Tensor) -> None:
        """Make a request active, whose whole prompt is in the row behind the active ones."""
        row = len(self.active)
        self.rows.logits[row], self.rows.state[row] = logits, state
        if generation.num_frames == generation.turn_begin and not generation.parity:
            # The codec could decode nothing of a speech without frames; no turn is left out.
            self.rows.logits[row, self._runner.vocabulary.end_choice] = float("-inf")
        generation.kept = None
        if generation is self.prefilling:
            self.prefilling = None
        self.active.append(generation)

    def end(self, row: int) -> None:
        """Free the row of an active request that has ended."""
        self.service.ended(time.monotonic() - (self.active[row].begun_s or 0))
        self.retire(row)

    @torch.inference_mode()
    def retire(self, row: int) -> None:
        """Free an active request's row; the last active one moves into it."""
        last = len(self.active) - 1
        self._move(row, last)
        self.active[row] = self.active[last]
        self.active.pop()
        if self.prefilling:  # its row is always the one behind the active ones
            self._move(last, last + 1)

    @torch.inference_mode()
    def continue_turns(self, row: int) -> Generation:
        """Free the row of a request whose turn has ended, for its next turn.

        Returns:
            The request, which has to be admitted again, and keeps its keys and values.
        """
        generation = self.active[row]
        generation.take_next_part(*self._copied(row))
        self.retire(row)
        return generation

    def _move(self, row: int, last: int) -> None:
        self.rows.drop(row, last)
        self.cache.drop(row, last)

    @torch.inference_mode()
    def drop_prefilling(self) -> None:
        """Free the row of the request in prefill."""
        self.cache.lengths[len(self.active)] = 0
        self.prefilling = None

    def clear(self) -> None:
        """Forget all members, and give the cache's memory back."""
        self.active.clear()
        self.joining.clear()
        self.prefilling = None
        self.cache = self._new_cache()

    @torch.inference_mode()
    def halve(self) -> list[Generation]:
        """Continue with half the slots; all members give their rows back.

        Active ones keep copies of their keys and values outside of the cache, where those fit.

        Returns:
            The requests that have to be admitted again, in order.
        """
        members = self.members()
        for row, member in enumerate(members):
            member.give_row_back(*(self._copied(row) if row < len(self.active) else ()))
        self.slots = max(1, self.slots // 2)
        if self._max_positions is not None:
            self._max_positions //= 2
        self.prefixes.limit(self.prefixes.max_bytes // 2 if self.slots > 1 else 0)
        self.clear()
        return members

    def _copied(self, row: int) -> tuple[Tensor, ...]:
        """Copies of a row's keys and values in the machine's own memory."""
        end = self.active[row].positions_cached
        try:
            views = (tensor[:, :, :end] for tensor in self.cache.row(row))
            return tuple(tensor.to("cpu", copy=True) for tensor in views)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return ()  # they are computed again

    @torch.inference_mode()
    def shrink_if_idle(self) -> None:
        """Give the memory of long requests back when there are no members."""
        if not (self.active or self.prefilling):
            self.cache.shrink()
