"""Continuous batching: requests join and leave a running batch at every frame."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from engine.kv_cache import KVCache
from engine.llama import Llama, Rows, stacked_noise
from engine.prefix_cache import PrefixCache
from engine.request import Active, Request, Sampling

PREFILL_SLICE = 512  # prompt positions per step: running streams wait for no more than this


class OverloadedError(RuntimeError):
    """The queue is full; the caller should try another replica, or later."""


class CancelledError(RuntimeError):
    """The caller no longer waits."""


class Engine:
    """`submit` from any thread; one thread calls `run` (or, in tests, `step`)."""

    def __init__(self, llama: Llama, slots: int, max_waiting: int = 256) -> None:
        self.llama, self.slots, self.max_waiting = llama, slots, max_waiting
        self.waiting: deque[Request] = deque()
        self.active: list[Active] = []
        self.joining: list[Active] = []  # within a step: whose prompts go through together
        self.prefilling: Active | None = None
        self.rows = Rows(llama, slots)
        self.prefixes = PrefixCache()
        self.cache = KVCache(llama.new_cache, slots, llama.facts.max_seq_len)
        self.frames = 0
        self.steps: Counter[int] = Counter()  # by batch size, rounded up to a power of two
        self.seconds: dict[str, float] = {}  # by phase; a GPU's show where its results are awaited
        self._wake = threading.Condition()
        self._closed = False

    def warm_up(self) -> None:
        """Run every graph for one request and for as many as there are slots, as at work.

        A trace is optimised in its first runs, which nobody should have to wait for.
        """
        prompt = np.zeros((1 + self.llama.facts.num_codebooks, 8), np.int32)
        for count in (1, min(self.slots, self.max_waiting)):
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
            self.waiting.append(request)
            self._wake.notify()

    def run(self, after_step: Callable[[], None] = lambda: None) -> None:
        """Work until `close`; a step that fails takes its requests with it, not the engine."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._busy())
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
        decoding = len(self.active)
        if self.prefilling or not self._prefill_together():
            self._prefill_slice()
        if decoding:
            self._decode(decoding)
        if self.active:
            self._sample(len(self.active))
        if not (self.active or self.prefilling):
            self.cache.shrink()
        return self._busy()

    def _busy(self) -> bool:
        return bool(self.waiting or self.active or self.prefilling)

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

    def _prefill_together(self) -> bool:
        """Push what is left of several waiting prompts through as one batch, if it is little.

        The first prompt that needs more, its voice or several slices, is left in `prefilling`.

        Returns:
            Whether there were any.
        """
        begin, group, longest = len(self.active), self.joining, 0
        while self.waiting and begin + len(group) < self.slots:
            active = self._admit(self.waiting.popleft(), begin + len(group))
            longest = max(longest, active.prompt.shape[2] - active.prefilled)
            if active.needs_voice or (1 + len(group)) * longest > PREFILL_SLICE:
                self.prefilling = active
                break
            group.append(active)
        if group:
            rests = [active.prompt[0, :, active.prefilled :] for active in group]
            ends = self._extend("prefill", slice(begin, begin + len(group)), rests)
            for active, logits, state in zip(group, *ends, strict=True):
                self._activate(active, logits, state)
            self.joining = []
        return bool(group)

    def _activate(self, active: Active, logits: torch.Tensor, state: torch.Tensor) -> None:
        """The whole prompt is in the row behind the active ones: the request joins them."""
        row = len(self.active)
        self.rows.logits[row], self.rows.state[row] = logits, state
        # Speech of no frames at all is nothing that the codec could decode.
        self.rows.logits[row, self.llama.end_choice] = float("-inf")
        self.active.append(active)

    def _prefill_slice(self) -> None:
        """Push a part of one prompt through; with its end the request becomes active."""
        row, active = len(self.active), self.prefilling
        if active is None:
            return
        begin, prefix = active.prefilled, active.prefix_length
        end = min(begin + PREFILL_SLICE, active.prompt.shape[2])
        if active.needs_voice:  # a slice of its own: the rest is then the same, hot or cold
            end = min(end, prefix)
        logits, state = self._extend(
            "prefill", slice(row, row + 1), [active.prompt[0, :, begin:end]]
        )
        active.prefilled = end
        if end == prefix:
            self.prefixes.put(active.prefix_key, *self.cache.row(row))
        if end == active.prompt.shape[2]:
            self._activate(active, logits[0], state[0])
            self.prefilling = None

    def _extend(
        self, phase: str, rows: slice, columns: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The slow transformer: new positions of these rows, int64 (1 + codebooks, time) each.

        Returns:
            Logits and the fast transformer's input at the last of them, (rows, ...).
        """
        times = torch.tensor([c.shape[1] for c in columns])
        with self._timed(phase):
            tokens = pad_sequence([c.T for c in columns], batch_first=True).transpose(1, 2)
            lengths, keys, values = self.cache.room(rows, int(times.max()))
            device = self.llama.device
            ends = self.llama.extend(tokens.to(device), times.to(device), lengths, keys, values)
        self.cache.lengths[rows] += times
        return ends

    def _admit(self, request: Request, row: int) -> Active:
        facts, sampling = self.llama.facts, request.sampling
        self.cache.lengths[row] = 0
        self.rows.begin(row, sampling.temperature, sampling.top_p, sampling.repetition_penalty)
        room = min(facts.max_seq_len - request.prompt.shape[1], facts.max_frames)
        limit = min(sampling.max_new_tokens, room)
        active = Active(request, limit, facts.num_codebooks, facts.history_frames)
        if voice := self.prefixes.get(active.prefix_key):
            self.cache.extend(row, *voice)
            active.prefilled = active.prefix_length
        return active

    def _decode(self, count: int) -> None:
        """One frame more, for rows 0 to count - 1."""
        columns = list(self.rows.columns[:count, :, None])
        ends = self._extend("decode_step", slice(0, count), columns)
        self.rows.logits[:count], self.rows.state[:count] = ends

    def _sample(self, count: int) -> None:
        """Token, codes, windows; the finished leave."""
        llama, rows = self.llama, self.rows
        books = llama.facts.num_codebooks
        self.frames += count
        self.steps[1 << (count - 1).bit_length()] += 1
        need = llama.slow_choices + (books - 1) * llama.fast_choices
        slow_noise, fast_noise = stacked_noise(
            [active.noise(need) for active in self.active], llama.slow_choices, books
        )
        options = rows.options[:, :count].unbind()
        with self._timed("sample"):
            choices = llama.sample_token(
                rows.logits[:count], rows.previous_tokens[:count], *options,
                slow_noise.to(llama.device),
            )  # fmt: skip
            tokens = llama.token_of(choices)
        with self._timed("fast_loop"):
            codes, _ = llama.fast_loop(
                rows.state[:count], llama.semantic_code(tokens), rows.previous_codes[:count],
                *options, fast_noise.to(llama.device),
            )  # fmt: skip
        rows.remember(count, choices, torch.cat([tokens[:, None], codes], dim=1))
        ended = (choices == llama.end_choice).tolist()
        frames = codes.cpu().numpy()
        for row in reversed(range(count)):
            active = self.active[row]
            if ended[row]:
                active.finish("stop")
            else:
                active.add(frames[row])
                reason = active.over()
                if not reason:
                    continue
                active.finish(reason)
            self._retire(row)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin

    def _retire(self, row: int) -> None:
        """Free a slot; the last row moves into it."""
        last = len(self.active) - 1
        self.rows.drop(row, last)
        self.cache.drop(row, last)
        self.active[row] = self.active[last]
        self.active.pop()
        if self.prefilling:  # its row is always the one behind the active ones
            self.cache.drop(last, last + 1)
            self.rows.drop(last, last + 1)

    def _abandon(self, error: Exception) -> None:
        """Tell every request, forget them all, and start from a clean slate."""
        with self._wake:
            begun = [*self.active, *self.joining, *([self.prefilling] if self.prefilling else [])]
            requests = [active.request for active in begun] + list(self.waiting)
            self.waiting.clear()
            self.active.clear()
            self.joining.clear()
            self.prefilling = None
            self.cache.lengths.zero_()
        for request in requests:
            request.on_error(error)


def _raise(error: Exception) -> None:
    raise error
