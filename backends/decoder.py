"""Windows of codes through the decoder by our own operators.

A window brings its history along, so any instance may take it. The instance that has decoded the
window before, though, still has what that left of the history, and need not compute it again.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import Any

import numpy as np

from backends.native import Arrays
from ensemble import compiled

# New frames in one run. Rows run faster one after the other than together once what they have
# between two layers is far beyond the caches.
PIECE_FRAMES = 64
STATE_BYTES = 256 << 20  # of what is kept of histories, the latest; S1-mini's are 8 MB at most
State = tuple[Any, ...]  # tensors with a row: see `export.codec_kernels.KernelDecoder.resume`


class Decoder:
    """`codes` and `new_frames` -> audio, float32 (rows, samples).

    Audio is the same to the last bit whether a history is known or not.

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
        self._states: OrderedDict[bytes, State] = OrderedDict()
        self._bytes = self.resumed = 0

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """Decode a batch.

        Raises:
            ValueError: If a window does not fit the codec.
        """
        import torch

        codes, numbers = arrays["codes"], arrays["new_frames"].copy()
        # Rows of padding alone, which end a stream: nobody hears them, but they must be frames.
        alone = numbers[:, 0] < 0
        numbers[:, 0] = np.where(alone, codes.shape[2] - numbers.shape[1], numbers[:, 0])
        compiled.refuse_window(self._described, codes, numbers)
        parts, new = [], numbers.shape[1]
        with torch.inference_mode():
            for piece in pieces({"codes": codes, "new_frames": numbers}):
                audio = self._decode(piece["codes"], piece["new_frames"])
                valid = piece["new_frames"].shape[1]
                padding = audio.shape[1] // valid * (new - valid)
                parts.append(np.pad(audio, ((0, 0), (0, padding))))
        return np.concatenate(parts)

    def _decode(self, codes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        history = codes.shape[2] - numbers.shape[1]
        states = [self._take(row[:, :history], n[0]) for row, n in zip(codes, numbers, strict=True)]
        known = np.array([state is not None for state in states])
        audio = {}
        for rows, begin in ((np.flatnonzero(known), history), (np.flatnonzero(~known), 0)):
            if len(rows):
                found = [state for i in rows if (state := states[i]) is not None]
                done = self._run(codes[rows][:, :, begin:], numbers[rows], history, found)
                audio |= dict(zip(rows, done[0], strict=True))
                self._keep(codes[rows], numbers[rows], done[1:])
        self.resumed += int(known.sum())
        return np.stack([audio[i] for i in range(len(codes))])

    def _run(
        self, codes: np.ndarray, numbers: np.ndarray, history: int, states: list[State]
    ) -> tuple[Any, ...]:
        """Audio and the states behind, of rows that all have one or all have none."""
        import torch

        new = map(torch.from_numpy, map(np.ascontiguousarray, (codes, numbers)))
        before = self._module.begin(len(codes))
        if states:
            before = map(torch.stack, zip(*states, strict=True))
        audio, *after = self._module.resume(*new, history, *before)
        return audio.numpy(), *after

    def _take(self, history: np.ndarray, end: int) -> State | None:
        return self._pop(_key(history, end)) if history.shape[1] else None

    def _pop(self, key: bytes) -> State | None:
        state = self._states.pop(key, None)
        self._bytes -= _num_bytes(state or ())
        return state

    def _keep(self, codes: np.ndarray, numbers: np.ndarray, after: tuple[Any, ...]) -> None:
        for row, frames, *state in zip(codes, numbers, *after, strict=True):
            if frames[-1] < 0:
                continue  # a stream's last window
            begin = max(0, row.shape[1] - self._history_frames)
            key = _key(row[:, begin:], frames[-1] + 1)
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


def pieces(arrays: Arrays) -> Iterator[Arrays]:
    """A batch of windows as runs of at most `PIECE_FRAMES`, or of a single row, in order.

    Frames that are padding in all rows of a run, -1 in `new_frames`, are cut off.
    """
    codes, numbers = arrays["codes"], arrays["new_frames"]
    rows = max(1, PIECE_FRAMES // numbers.shape[1])
    for begin in range(0, len(numbers), rows):
        part = numbers[begin : begin + rows]
        padding = part.shape[1] - max(1, int((part >= 0).sum(axis=1).max()))
        yield {
            "codes": codes[begin : begin + rows, :, : codes.shape[2] - padding],
            "new_frames": part[:, : part.shape[1] - padding],
        }
