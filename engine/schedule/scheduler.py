"""Continuous batching: requests join and leave a running batch at every frame.

The scheduler computes nothing. It keeps the queue, drops cancelled requests and decides what
happens when memory runs out; `engine.schedule.step` does the rest.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from engine.lm.runner import Runner
from engine.schedule.batch import Batch
from engine.schedule.generation import Generation
from engine.schedule.memory import kv_bytes_per_position, out_of_memory
from engine.schedule.outbox import Outbox
from engine.schedule.queue_time import expected_wait_s, in_words
from engine.schedule.real_time import RealTime
from engine.schedule.request import Request
from engine.schedule.stats import EngineStats
from engine.schedule.step import PREFILL_SLICE, Stepper
from ensemble.contract.errors import CancelledError, OverloadedError

log = logging.getLogger("fish_llama")
# Waiting requests, and as many whose windows wait; each is a round trip to Triton of about 0.1 ms.
CHECKS_PER_STEP = 4


class TooLargeError(RuntimeError):
    """There is no memory for this request, even if it is the only one."""


class Scheduler:
    """`submit` may be called from any thread; one thread calls `run` (or, in tests, `step`).

    Attributes:
        batch: The requests that have a row.
        waiting: Those that have none yet, in the order of their arrival.
        stepper: What computes.
        outbox: Windows that wait for the decoder.
    """

    def __init__(
        self,
        runner: Runner,
        slots: int,
        max_waiting: int = 256,
        max_positions: int | None = None,
        prefill_slice: int = PREFILL_SLICE,
        max_wait_s: float = math.inf,
        real_time: RealTime | None = None,
        refuses: bool = False,
    ) -> None:
        """Args:
        runner: The language model.
        slots: Requests that are decoded together, at most.
        max_waiting: Length of the queue; more requests are refused.
        max_positions: Cache positions of all requests together; a request that would exceed it
            stays queued. None: as many as all slots may need.
        prefill_slice: Prompt positions per step, at most.
        max_wait_s: Seconds that a request may wait for a slot; one that would wait longer is
            refused when it comes, and one that has waited longer when that is seen. Requests that
            have begun are never refused.
        real_time: Says how many streams are played in time; no more are admitted. None: as many as
            there are slots.
        refuses: Whether a stream that could not be played in time now is refused at once. Other
            requests wait in any case, for nobody listens to them yet.
        """
        self.runner, self.max_waiting, self.max_wait_s = runner, max_waiting, max_wait_s
        self.batch = Batch(runner, slots, max_positions)
        self.waiting: deque[Generation] = deque()
        self.stepper = Stepper(runner, self.batch, prefill_slice)
        self.outbox = Outbox(runner.facts.samples_per_frame / runner.facts.sample_rate)
        self.real_time, self._refuses = real_time, refuses
        self._wake = threading.Condition()
        self._closed = False
        self._checked = 0  # index of the waiting request that was checked last

    def stats(self) -> EngineStats:
        """What metrics publish."""
        batch, stepper = self.batch, self.stepper
        return EngineStats(
            slots=batch.slots,
            active=len(batch.active),
            waiting=len(self.waiting),
            kv_bytes=batch.cache.num_bytes,
            kv_bytes_limit=self.kv_bytes_limit,
            prefixes=replace(batch.prefixes.stats),
            frames=stepper.frames,
            steps=dict(stepper.steps),
            seconds=dict(stepper.seconds),
            expected_wait_s=self.expected_wait_s(),
            in_time=self.batch.slots if self.batch.in_time is None else self.batch.in_time,
        )

    @property
    def kv_bytes_limit(self) -> int:
        """Memory that keys and values take at most, whatever is asked."""
        cache = self.batch.cache
        positions = min(cache.max_positions, self.batch.slots * cache.row_limit)
        return positions * kv_bytes_per_position(self.runner.facts, self.runner.dtype)

    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self._computes() or bool(self.outbox)

    def _computes(self) -> bool:
        return bool(self.waiting or self.batch.active or self.batch.prefilling)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: If the prompt does not fit.
            OverloadedError: If too many wait already, or it would wait too long.
        """
        facts, length = self.runner.facts, request.prompt.shape[1]
        if not 1 <= length <= facts.max_prompt_length:
            raise ValueError(
                f"prompt has {length} positions, expected 1 to {facts.max_prompt_length}. "
                "Use a shorter text or reference."
            )
        with self._wake:
            if self._closed:
                raise OverloadedError("the engine is shutting down")
            if len(self.waiting) >= self.max_waiting:
                raise OverloadedError(
                    f"{len(self.waiting)} requests are waiting already, the limit. "
                    "Try again later, or add an instance."
                )
            self._refuse_late_stream(request)
            self._refuse_long_wait(request)
            self.waiting.append(Generation(request, facts))
            self._wake.notify()

    def _refuse_late_stream(self, request: Request) -> None:
        ahead = len(self.batch.members()) + len(self.waiting)
        is_late = ahead >= self.batch.places([request])
        if self._refuses and request.is_listened_to and is_late:
            expected = max(1.0, self.expected_wait_s(request))
            raise OverloadedError(
                f"with {ahead} in work no further stream can be played in time. "
                f"Try again in {in_words(expected)}, or add an instance."
            )

    def _refuse_long_wait(self, request: Request) -> None:
        limit = min(self.max_wait_s, request.patience_s)
        expected = self.expected_wait_s(request)
        if expected > limit:
            raise OverloadedError(
                f"a slot is expected in {in_words(expected)}, after {len(self.waiting)} requests, "
                f"and this one may wait {limit:g} s. Try again in {in_words(expected - limit)}, "
                "or add an instance."
            )

    def expected_wait_s(self, *coming: Request) -> float:
        """Seconds that a request which comes now will wait for a slot; `coming`: that one."""
        service, running = self.batch.service.seconds, len(self.batch.members())
        places = self.batch.places((*(g.request for g in tuple(self.waiting)), *coming))
        return expected_wait_s(service, running, len(self.waiting), places)

    def run(self, after_step: Callable[[EngineStats], None] = lambda _: None) -> None:
        """Work until `close`; a step that fails takes its requests with it, not the engine."""
        while True:
            with self._wake:
                pause_s = self.outbox.pause_s() if self.outbox else None
                self._wake.wait_for(lambda: self._closed or self._computes(), pause_s)
                if self._closed:
                    break
            try:
                self.step()
                after_step(self.stats())
            except Exception as error:  # whatever it was, every caller must be told
                self._abandon(error)
        self._abandon(RuntimeError("the server is shutting down"))

    def close(self) -> None:
        """End `run`; unfinished requests get an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    def step(self) -> bool:
        """Take one step for every request; returns whether there is more to do."""
        self._drop_cancelled()
        self._drop_expired()
        trouble = ""
        if self.real_time is not None:
            self.real_time.begin()
            self.batch.in_time = self.real_time.streams(self.batch.slots)
        try:
            for generation, window in self.stepper.step(self.waiting):
                self.outbox.put(generation, window)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            trouble = str(error).partition("\n")[0]
        if trouble:  # the error is gone by now, and with it the tensors that its traceback held
            self._free_memory(trouble)
        for generation, window in self.outbox.leaving():
            generation.request.on_window(window)
        self.batch.shrink_if_idle()
        if self.real_time is not None:
            prompts_s = self.stepper.seconds.get("prefill", 0.0)
            self.real_time.end(self.stepper.last_count, prompts_s, self._computes())
        return self.busy()

    def _free_memory(self, trouble: str) -> None:
        """Continue with fewer slots; a request that has no room as the only one fails."""
        batch, before = self.batch, self.batch.slots
        members = batch.members()
        if before > 1 or batch.prefixes.stats.num_bytes:
            self.waiting.extendleft(reversed(batch.halve()))
            log.warning(
                "fish_llama: out of memory with %d requests in %d slots; %d from now on, no "
                "request is lost (%s)", len(members), before, batch.slots, trouble,
            )  # fmt: skip
            return
        batch.clear()
        if not members and self.waiting:  # it was still being admitted
            members = [self.waiting.popleft()]
        log.warning("fish_llama: out of memory with one slot; its request fails (%s)", trouble)
        for member in members:
            self.outbox.drop(member)
            positions = member.request.prompt.shape[1] + member.num_frames
            member.request.on_error(
                TooLargeError(
                    f"out of memory at {positions} positions, as the only request. Use a shorter "
                    f"text or reference, or free memory on {self.runner.device} ({trouble})"
                )
            )

    def _drop_cancelled(self) -> None:
        batch = self.batch
        for row in reversed(range(len(batch.active))):
            generation = batch.active[row]
            if reason := generation.request.why_cancelled():
                batch.end(row)
                self._cancelled(generation, reason)
        if batch.prefilling and (reason := batch.prefilling.request.why_cancelled()):
            generation = batch.prefilling
            batch.drop_prefilling()
            self._cancelled(generation, reason)
        ended = (g for g in self.outbox.next_ones(CHECKS_PER_STEP) if g not in batch.members())
        for generation in ended:
            if reason := generation.request.why_cancelled():
                self._cancelled(generation, reason)
        self._drop_cancelled_of_queue()

    def _cancelled(self, generation: Generation, reason: str) -> None:
        self.outbox.drop(generation)
        generation.request.on_error(CancelledError(reason))

    def _drop_cancelled_of_queue(self) -> None:
        """Check a few waiting requests, in turn; now and then one, where to wait is usual."""
        seldom = self.real_time is not None
        checks = int(self.stepper.number % 8 == 0) if seldom else CHECKS_PER_STEP
        for _ in range(min(len(self.waiting), checks)):
            self._checked = (self._checked + 1) % len(self.waiting)
            request = self.waiting[self._checked].request
            if reason := request.why_cancelled():
                del self.waiting[self._checked]
                self._checked -= 1
                request.on_error(CancelledError(reason))

    def _drop_expired(self) -> None:
        """Refuse requests that have waited too long for their first slot."""
        first = time.monotonic() - self.max_wait_s
        with self._wake:
            late = [g for g in self.waiting if g.begun_s is None and g.arrived_s < first]
            for generation in late:
                self.waiting.remove(generation)
        for generation in late:
            generation.request.on_error(
                OverloadedError(
                    f"no slot became free in {self.max_wait_s:g} s, the limit. "
                    "Try again later, or add an instance."
                )
            )

    def _abandon(self, error: Exception) -> None:
        """Give every request an error, and start from a clean slate."""
        with self._wake:
            members = (*self.batch.members(), *self.waiting, *self.outbox.clear())
            self.waiting.clear()
            self.batch.clear()
        for generation in dict.fromkeys(members):
            generation.request.on_error(error)
