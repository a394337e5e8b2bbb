"""Continuous batching: requests join and leave a running batch at every frame."""

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch

from engine.batch import PREFILL_SLICE, Batch
from engine.llama import Llama
from engine.memory import kv_bytes_per_position, out_of_memory
from engine.request import Active, Request, Sampling

log = logging.getLogger("fish_llama")
ASKED_PER_STEP = 4  # to ask one costs a message to Triton, of some 0.1 ms


class OverloadedError(RuntimeError):
    """The queue is full; the caller should try another replica, or later."""


class CancelledError(RuntimeError):
    """The caller no longer waits."""


class TooLargeError(RuntimeError):
    """There is no memory for this request, even alone."""


class Engine(Batch):
    """`submit` from any thread; one thread calls `run` (or, in tests, `step`)."""

    def __init__(
        self,
        llama: Llama,
        slots: int,
        max_waiting: int = 256,
        max_positions: int | None = None,
        prefill_slice: int = PREFILL_SLICE,
    ) -> None:
        """Args:
        llama: The graphs.
        slots: Requests that are decoded together, at most.
        max_waiting: More are refused.
        max_positions: In the cache at once; who would need more waits. None: all that fit slots.
        prefill_slice: Prompt positions that one step pushes through, at most.
        """
        super().__init__(llama, slots, max_positions, prefill_slice)
        self.max_waiting = max_waiting
        self._wake = threading.Condition()
        self._closed = False
        self._asked = 0  # who of those that wait was asked last

    @property
    def kv_bytes_limit(self) -> int:
        """Memory that keys and values take at most, whatever is asked."""
        positions = min(self.cache.most, self.slots * self.cache.limit)
        return positions * kv_bytes_per_position(self.llama.facts, self.llama.dtype)

    def warm_up(self) -> None:
        """Run every graph for one request and for as many as there are slots, as at work.

        A trace is optimised in its first runs, and a GPU's steps are recorded for each number of
        rows, which nobody should have to wait for.
        """
        prompt = np.zeros((1 + self.llama.facts.num_codebooks, 8), np.int32)
        counts = {1, min(self.slots, self.max_waiting)}
        if self.llama.is_recorded:
            counts |= {1 << i for i in range(self.slots.bit_length()) if 1 << i <= max(counts)}
        for count in sorted(counts):
            for _ in range(count):
                self.submit(Request(prompt, Sampling(max_new_tokens=4), lambda _: None, _raise))
            while self.step():
                pass
        self.frames = 0
        self.steps.clear()
        self.seconds.clear()

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            ValueError: If the prompt does not fit.
            OverloadedError: If too many wait already.
        """
        facts, length = self.llama.facts, request.prompt.shape[1]
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
            self.waiting.append(Active(request, facts))
            self._wake.notify()

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Work until `close`; a step that fails takes its requests with it, not the engine."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self.busy())
                if self._closed:
                    break
            try:
                self.step()
                after_step()
            except Exception as error:  # whatever it was, those who wait must hear of it
                self._abandon(error)
        self._abandon(RuntimeError("the server is shutting down"))

    def close(self) -> None:
        """End `run`; what is unfinished is told so."""
        with self._wake:
            self._closed = True
            self._wake.notify()

    @torch.inference_mode()
    def step(self) -> bool:
        """One frame for every active request; returns whether there is more to do."""
        self._leave_early()
        trouble = ""
        try:
            self.advance()
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            trouble = str(error).partition("\n")[0]
        if trouble:  # the error is gone by now, and with it what its traceback held
            self._make_do(trouble)
        if not (self.active or self.prefilling):
            self.cache.shrink()
        return self.busy()

    def _make_do(self, trouble: str) -> None:
        """Out of memory: go on with fewer slots; who is alone and has no room is told so."""
        before, begun = self.slots, self.begun()
        if before > 1 or self.prefixes.stats.num_bytes:
            self.halve()
            log.warning(
                "fish_llama: out of memory with %d requests in %d slots; %d from now on, nobody is "
                "lost (%s)", len(begun), before, self.slots, trouble,
            )  # fmt: skip
            return
        self.clear()
        if not begun and self.waiting:  # it was still being admitted
            begun = [self.waiting.popleft()]
        log.warning("fish_llama: out of memory with one slot; its request fails (%s)", trouble)
        for active in begun:
            positions = active.request.prompt.shape[1] + active.num_frames
            active.request.on_error(
                TooLargeError(
                    f"out of memory at {positions} positions, though alone. Use a shorter text or "
                    f"reference, or free memory on {self.llama.device} ({trouble})"
                )
            )

    def _leave_early(self) -> None:
        for row in reversed(range(len(self.active))):
            request = self.active[row].request
            if reason := request.why_over():
                self._retire(row)
                request.on_error(CancelledError(reason))
        if self.prefilling and (reason := self.prefilling.request.why_over()):
            request = self.prefilling.request
            self.cache.lengths[len(self.active)] = 0
            self.prefilling = None
            request.on_error(CancelledError(reason))
        self._leave_queue()

    def _leave_queue(self) -> None:
        """Ask a few of those who wait, in turn, whether anybody waits for them."""
        for _ in range(min(len(self.waiting), ASKED_PER_STEP)):
            self._asked = (self._asked + 1) % len(self.waiting)
            request = self.waiting[self._asked].request
            if reason := request.why_over():
                del self.waiting[self._asked]
                self._asked -= 1
                request.on_error(CancelledError(reason))

    def _abandon(self, error: Exception) -> None:
        """Tell every request, forget them all, and start from a clean slate."""
        with self._wake:
            requests = [active.request for active in (*self.begun(), *self.waiting)]
            self.waiting.clear()
            self.clear()
        for request in requests:
            request.on_error(error)


def _raise(error: Exception) -> None:
    raise error
