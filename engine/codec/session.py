"""Windows of codes through the decoder by our own operators.

A window brings its history along, so any instance may take it. The instance that has decoded the
window before, though, still has what that left of the history, and need not compute it again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from engine.codec import package as compiled
from ensemble.serving.stand_in import Arrays

# New frames in one run. Rows run faster one after the other than together once what they have
# between two layers is far beyond the caches.
PIECE_FRAMES = 64
STATE_BYTES = 256 << 20  # of what is kept of histories, the latest; S1-mini's are 8 MB at most
State = tuple[Any, ...]  # tensors with a row: see `engine.codec.on_kernels.KernelDecoder.resume`


@dataclass(frozen=True)
class _Row:
    """One window of a batch, without its padding.

    Attributes:
        codes: int64 (codebooks, history + new).
        begin: What its first new frame is numbered.
        history: Frames before that.
        state: What the window before it left, if it is known.
    """

    codes: np.ndarray
    begin: int
    history: int
    state: State | None

    @property
    def new(self) -> int:
        return self.codes.shape[1] - self.history

    @property
    def kind(self) -> tuple[int, ...]:
        """Equal for those that can be decoded together."""
        if self.state is None:
            return self.new, self.history, -1, 0
        before, context = self.state
        # Who has heard all frames so far can be given some that are none, in front of them.
        kept = before.shape[3]
        return self.new, -1, context.shape[0], -1 if kept == self.begin else kept


class Decoder:
    """`codes` and `new_frames` -> audio, float32 (rows, samples).

    Audio is the same to the last bit whether a history is known or not, and whoever shares the
    batch, whatever their histories.

    Attributes:
        resumed: Windows whose history was known.
    """

    def __init__(self, module: Any, described: Mapping[str, str]) -> None:
        """Args:
        module: What was loaded.
        described: What it says of itself.
        """
        self._module, self._described = module, described
        self._history_frames = int(described["history_frames"])
        self._frame = int(described["samples_per_frame"])
        self._codebooks = int(described["codebooks"])
        self._states: OrderedDict[bytes, State] = OrderedDict()
        self._bytes = self.resumed = 0

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """Decode a batch.

        Raises:
            ValueError: If a window does not fit the codec.
        """
        import torch

        codes, numbers = arrays["codes"], arrays["new_frames"]
        # Rows of padding alone, which end a stream, are silence: nobody hears them.
        heard = np.flatnonzero(numbers[:, 0] >= 0)
        compiled.refuse_window(self._described, codes, numbers)
        audio = np.zeros((len(codes), numbers.shape[1] * self._frame), np.float32)
        rows = {i: self._row(codes[i], numbers[i]) for i in heard}
        with torch.inference_mode():
            for run in runs({i: row.kind for i, row in rows.items()}):
                new = rows[run[0]].new * self._frame
                audio[run, :new] = self._run([rows[i] for i in run])
        return audio

    def _row(self, codes: np.ndarray, numbers: np.ndarray) -> _Row:
        valid, begin = int((numbers >= 0).sum()), int(numbers[0])
        end = codes.shape[1] - len(numbers)
        history = min(end, begin)
        # Rows beyond those that are read would let unlike histories have the same bytes.
        codes = codes[: self._codebooks, end - history : end + valid]
        state = self._pop(_key(codes[:, :history], begin)) if history else None
        self.resumed += state is not None
        return _Row(codes, begin, history, state)

    def _run(self, rows: list[_Row]) -> np.ndarray:
        """Audio of rows of one kind; their states behind it are kept."""
        import torch
        import torch.nn.functional as F

        new, states = rows[0].new, [row.state for row in rows if row.state is not None]
        before = self._module.begin(len(rows))
        if states:
            kept = max(keys.shape[3] for keys, _ in states)
            aligned = [F.pad(keys, (0, 0, kept - keys.shape[3], 0)) for keys, _ in states]
            before = torch.stack(aligned), torch.stack([context for _, context in states])
        codes = np.stack([row.codes[:, row.history if states else 0 :] for row in rows])
        numbers = np.stack([np.arange(row.begin, row.begin + new) for row in rows])
        arguments = (torch.from_numpy(codes), torch.from_numpy(numbers))
        # Histories that differ here are all longer than what a convolution can hear.
        history = max(row.history for row in rows)
        audio, *after = self._module.resume(*arguments, history, *before)
        for row, keys, context in zip(rows, *after, strict=True):
            first = max(0, keys.shape[3] - (row.begin + new))  # none, see `_Row.kind`
            self._keep(row, (keys[..., first:, :], context))
        return audio.numpy()

    def _pop(self, key: bytes) -> State | None:
        state = self._states.pop(key, None)
        self._bytes -= _num_bytes(state or ())
        return state

    def _keep(self, row: _Row, state: State) -> None:
        begin = max(0, row.codes.shape[1] - self._history_frames)
        key = _key(row.codes[:, begin:], row.begin + row.new)
        self._pop(key)
        self._states[key] = tuple(tensor.clone() for tensor in state)
        self._bytes += _num_bytes(self._states[key])
        while self._bytes > STATE_BYTES:
            self._pop(next(iter(self._states)))


def _key(history: np.ndarray, end: int) -> bytes:
    """Of all codes that the frame numbered `end` and those behind it can hear."""
    digest = blake2b(np.ascontiguousarray(history, np.int64).tobytes(), digest_size=16)
    digest.update(np.int64(end).tobytes())
    return digest.digest()


def _num_bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def runs(kinds: Mapping[int, tuple[int, ...]]) -> Iterator[list[int]]:
    """A batch in runs of rows of one kind, of `PIECE_FRAMES` at most or of a single row.

    Args:
        kinds: Of each row; first in it are its new frames.
    """
    alike: dict[tuple[int, ...], list[int]] = {}
    for row, kind in kinds.items():
        alike.setdefault(kind, []).append(row)
    for kind, rows in alike.items():
        count = max(1, PIECE_FRAMES // kind[0])
        yield from (rows[begin : begin + count] for begin in range(0, len(rows), count))
