"""The running batch: whose prompts go through, whose next frame is decoded and sampled."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from engine.kv_cache import KVCache
from engine.llama import Llama, Rows
from engine.memory import out_of_memory
from engine.prefix_cache import PrefixCache
from engine.request import Active
from engine.windows import Window, alike

PREFILL_SLICE = 512  # prompt positions per step: running streams wait for no more than this
KEPT_POSITIONS = 2048  # of every slot, where steps are recorded: their memory must not move


class Batch:
    """Rows 0 to n - 1 of cache and numbers are the n active requests'; behind them, who joins."""

    def __init__(
        self,
        llama: Llama,
        slots: int,
        max_positions: int | None = None,
        prefill_slice: int = PREFILL_SLICE,
    ) -> None:
        """Args: see `engine.engine.Engine`."""
        self.llama, self.slots, self.max_positions = llama, slots, max_positions
        self.prefill_slice = prefill_slice
        self.waiting: deque[Active] = deque()
        self.active: list[Active] = []
        self.joining: list[Active] = []  # within a step: whose prompts go through together
        self.prefilling: Active | None = None
        self.rows = Rows(llama, slots)
        self.prefixes = PrefixCache()
        self.cache = self._new_cache()
        self.frames = self.num_steps = 0
        self.steps: Counter[int] = Counter()  # by batch size, rounded up to a power of two
        self.seconds: dict[str, float] = {}  # by phase; a GPU's show where its results are awaited

    def advance(self) -> None:
        """One frame for every active request, those included whose prompts are now through."""
        decoding = len(self.active)
        if self.prefilling or not self._prefill_together():
            self._prefill_slice()
        if decoding:
            self._decode(decoding)
        if self.active:
            self._sample(len(self.active))

    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.active or self.prefilling)

    def begun(self) -> list[Active]:
        """Who has a row, in order."""
        return [*self.active, *self.joining, *([self.prefilling] if self.prefilling else [])]

    def clear(self) -> None:
        """Forget everyone who has a row, and give the cache's memory back."""
        self.active.clear()
        self.joining.clear()
        self.prefilling = None
        self.cache = self._new_cache()

    def _new_cache(self) -> KVCache:
        limit = self.llama.facts.max_seq_len
        kept = KEPT_POSITIONS if self.llama.is_recorded else 0
        return KVCache(self.llama.new_cache, self.slots, limit, self.max_positions, kept)

    def halve(self) -> None:
        """Go on with half the slots; everyone gives his row back and waits in front.

        Active ones take their keys and values along, outside of the cache, where they fit.
        """
        begun = self.begun()
        for row, active in enumerate(begun):
            active.give_row_back(*(self._copied(row) if row < len(self.active) else ()))
        self.slots = max(1, self.slots // 2)
        if self.max_positions is not None:
            self.max_positions //= 2
        self.prefixes.limit(self.prefixes.max_bytes // 2 if self.slots > 1 else 0)
        self.clear()
        self.waiting.extendleft(reversed(begun))

    def _copied(self, row: int) -> tuple[torch.Tensor, ...]:
        """A row's keys and values in the machine's own memory, but for the last position's."""
        active = self.active[row]
        end = active.request.prompt.shape[1] + active.num_frames - 1
        try:
            views = (tensor[:, :, :end] for tensor in self.cache.row(row))
            return tuple(tensor.to("cpu", copy=True) for tensor in views)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return ()  # they are computed anew

    def _prefill_together(self) -> bool:
        """Push what is left of several waiting prompts through as one batch, if it is little.

        The first prompt that needs more, its voice or several slices, is left in `prefilling`.

        Returns:
            Whether there were any.
        """
        begin, group, longest = len(self.active), self.joining, 0
        self.cache.likely = len(self.begun()) + len(self.waiting)
        while self.waiting and begin + len(group) < self.slots:
            active = self.waiting[0]
            if not self.cache.fits([other.need for other in (*self.begun(), active)]):
                break  # he is the next, when others have left
            self._admit(active, begin + len(group))
            self.waiting.popleft()
            longest = max(longest, active.left)
            if active.needs_voice or (1 + len(group)) * longest > self.prefill_slice:
                self.prefilling = active
                break
            group.append(active)
        if group:
            rests = [active.prompt[:, active.prefilled :] for active in group]
            ends = self._extend("prefill", begin, rests)
            self.joining = []
            for active, logits, state in zip(group, *ends, strict=True):
                self._activate(active, logits, state)
        return bool(group)

    def _activate(self, active: Active, logits: torch.Tensor, state: torch.Tensor) -> None:
        """The whole prompt is in the row behind the active ones: the request joins them."""
        row = len(self.active)
        self.rows.logits[row], self.rows.state[row] = logits, state
        if not active.num_frames and not active.parity:
            # Speech of no frames at all is nothing that the codec could decode.
            self.rows.logits[row, self.llama.end_choice] = float("-inf")
        active.kept = None
        self.active.append(active)

    def _prefill_slice(self) -> None:
        """Push a part of one prompt through; with its end the request becomes active."""
        row, active = len(self.active), self.prefilling
        if active is None:
            return
        begin, prefix = active.prefilled, active.prefix_length
        end = min(begin + self.prefill_slice, active.prompt.shape[1])
        if active.needs_voice:  # a slice of its own: the rest is then the same, hot or cold
            end = min(end, prefix)
        logits, state = self._extend("prefill", row, [active.prompt[:, begin:end]])
        active.prefilled = end
        if end == prefix:
            self.prefixes.put(active.prefix_key, *self.cache.row(row))
        if end == active.prompt.shape[1]:
            self._activate(active, logits[0], state[0])
            self.prefilling = None

    def _extend(
        self, phase: str, begin: int, columns: list[torch.Tensor], empty: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The slow transformer: new positions of some rows, int64 (1 + codebooks, time) each.

        Args:
            phase: What it is for.
            begin: The first row.
            columns: The positions.
            empty: Rows behind them that are computed as well; what that writes behind the
                positions of one who joins is overwritten when he goes on.

        Returns:
            Logits and the fast transformer's input at the last of them, (rows, ...).
        """
        count = len(columns)
        rows = slice(begin, begin + count + empty)
        columns = columns + [torch.zeros_like(columns[0])] * empty
        times = torch.tensor([c.shape[1] for c in columns])
        with self._timed(phase):
            tokens = pad_sequence([c.T for c in columns], batch_first=True).transpose(1, 2)
            lengths, keys, values = self.cache.room(rows, int(times.max()))
            device = self.llama.device
            inputs = tokens.to(device), times.to(device), lengths, keys, values
            shared = None if empty else self._shared(self.begun()[rows]).to(device)
            ends = self.llama.extend(*inputs, shared)
        self.cache.lengths[begin : begin + count] += times[:count]
        return ends

    @staticmethod
    def _shared(actives: list[Active]) -> torch.Tensor:
        """Whose row has the same voice, the first such, and its positions: int64 (2, rows)."""
        leads: dict[bytes, int] = {}
        shared = [
            (leads.setdefault(a.prefix_key, i), a.prefix_length) for i, a in enumerate(actives)
        ]
        return torch.tensor(shared).T

    def _admit(self, active: Active, row: int) -> None:
        """Give a request this row, and what is known already of its keys and values."""
        sampling = active.request.sampling
        self.cache.lengths[row] = 0
        self.rows.begin(row, sampling.temperature, sampling.top_p, sampling.repetition_penalty)
        if known := active.kept or self.prefixes.get(active.prefix_key):
            self.cache.extend(row, *known)
            active.prefilled = known[0].shape[2]

    def _decode(self, count: int) -> None:
        """One frame more, for rows 0 to count - 1."""
        columns = [torch.from_numpy(a.columns[-1:].T) for a in self.active[:count]]
        empty = self.llama.rows_for(count, self.slots) - count
        logits, state = self._extend("decode_step", 0, columns, empty)
        self.rows.logits[:count], self.rows.state[:count] = logits[:count], state[:count]

    def _sample(self, count: int) -> None:
        """Token, codes, windows; the finished leave."""
        llama, rows = self.llama, self.rows
        computed = llama.rows_for(count, self.slots)
        slow_noise, fast_noise = llama.noise(self.active, computed)
        options = rows.options[:, :computed].unbind()
        windows = [a.window() for a in self.active]
        windows += [np.full_like(windows[0], -1)] * (computed - count)
        previous = torch.from_numpy(np.stack(windows)).to(llama.device)
        with self._timed("sample"):
            choices = llama.sample_token(
                rows.logits[:computed], llama.previous_choices(previous), *options, slow_noise
            )
            tokens = llama.token_of(choices)
        with self._timed("fast_loop"):
            codes, _ = llama.fast_loop(
                rows.state[:computed], llama.semantic_code(tokens), previous[:, 2:], *options,
                fast_noise,
            )  # fmt: skip
            chosen = torch.cat([choices[:, None], tokens[:, None], codes], dim=1).cpu().numpy()
        ended, columns = chosen[:count, 0] == llama.end_choice, chosen[:count, 1:]
        self.frames += count
        self.steps[1 << (count - 1).bit_length()] += 1
        self.num_steps += 1
        due: list[tuple[Active, Window]] = []
        longest = max(active.num_frames for active in self.active) + 1
        for row in reversed(range(count)):
            active = self.active[row]
            if ended[row] and active.num_frames:  # upstream does not look at the first one
                reason = "stop"
            else:
                active.add(columns[row])
                reason = active.over()
            if reason:
                self._retire(row)
                due.append((active, active.finish(reason)))
            elif window := active.cut(self.num_steps, count):
                due.append((active, window))
        shaped = alike([window for _, window in due], longest, count, llama.facts)
        for (active, _), window in zip(due, shaped, strict=True):
            active.request.on_window(window)

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
