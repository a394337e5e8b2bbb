"""Decoding windows and encoding recordings on kernels.

A window brings its history along, so any instance of the decoder may decode it. The instance that
decoded the window before still has what that left of the history, and need not compute it again
(case 3 of `engine.codec.streaming`).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine.codec.package import refuse_window
from ensemble.contract.window import is_warm_up

# Frames in one run of the decoder (new ones) and of the encoder, of all rows together. Beyond, what
# lies between two layers is far larger than the caches, and rows run faster one after the other.
DECODER_FRAMES = ENCODER_FRAMES = 64
# Of all states that are kept, the newest; a state of S1-mini's decoder has 8 MB at most.
STATE_BYTES = 256 << 20
State = tuple[Any, ...]  # `cache` and `context` of one row, see `KernelDecoder.resume`
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Window:
    """One row of a batch, without its padding.

    Attributes:
        codes: int64 (codebooks, history + new).
        begin: The number of its first new frame.
        history: Frames before that.
        state: What the window before it left, if it was kept.
    """

    codes: np.ndarray
    begin: int
    history: int
    state: State | None

    @property
    def new(self) -> int:
        return self.codes.shape[1] - self.history

    @property
    def group(self) -> tuple[int, ...]:
        """Equal for windows that can be decoded in one run."""
        if self.state is None:
            return self.new, self.history, -1, 0
        cache, context = self.state
        # A cache that reaches back to the first frame can be padded in front, as there is nothing.
        known = cache.shape[3]
        return self.new, -1, context.shape[0], -1 if known == self.begin else known


class DecoderSession:
    """`codes` and `new_frames` -> audio, float32 (rows, samples).

    Audio is the same to the last bit whether a state was kept or not, and whatever else is in the
    batch.

    Attributes:
        resumed: Windows whose state was kept.
    """

    def __init__(
        self,
        module: Any,
        described: Mapping[str, Any],
        frames: int = DECODER_FRAMES,
        state_bytes: int | None = None,
    ) -> None:
        """Serve a decoder.

        Args:
            module: A `KernelDecoder`, as loaded from its file, or a `GpuDecoder`.
            described: The file's description.
            frames: New frames in one run, of all rows together.
            state_bytes: Of all states that are kept; None: `STATE_BYTES`.
        """
        self._module, self._described = module, described
        self._frames, self._state_bytes = frames, state_bytes
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
        codes, numbers = arrays["codes"], arrays["new_frames"]
        if is_warm_up(codes, numbers):
            numbers = numbers + np.arange(numbers.shape[1])
        # Rows beyond those that are read would let unlike histories have the same bytes. A server
        # refuses them (`ensemble.contract.codec_limits`), but for the warm-up.
        codes = codes[:, : self._codebooks]
        refuse_window(self._described, codes, numbers)
        audio = np.zeros((len(codes), numbers.shape[1] * self._frame), np.float32)
        # A row of padding alone, which ends a stream, has no audio.
        rows = np.flatnonzero(numbers[:, 0] >= 0)
        windows = {i: self._window(codes[i], numbers[i]) for i in rows}
        with torch.inference_mode():
            for run in runs({i: w.group for i, w in windows.items()}, self._frames):
                new = windows[run[0]].new * self._frame
                audio[run, :new] = self._run([windows[i] for i in run])
        return audio

    def _window(self, codes: np.ndarray, numbers: np.ndarray) -> _Window:
        valid, begin = int((numbers >= 0).sum()), int(numbers[0])
        end = codes.shape[1] - len(numbers)
        history = min(end, begin)
        codes = codes[:, end - history : end + valid]
        state = self._pop(_key(codes[:, :history], begin)) if history else None
        self.resumed += state is not None
        return _Window(codes, begin, history, state)

    def _run(self, windows: list[_Window]) -> np.ndarray:
        """Decode windows of one group, and keep the states that they leave."""
        new, states = windows[0].new, [w.state for w in windows if w.state is not None]
        state = self._module.begin(len(windows))
        if states:
            known = max(cache.shape[3] for cache, _ in states)
            caches = [F.pad(cache, (0, 0, known - cache.shape[3], 0)) for cache, _ in states]
            state = torch.stack(caches), torch.stack([context for _, context in states])
        codes = np.stack([w.codes[:, w.history if states else 0 :] for w in windows])
        numbers = np.stack([np.arange(w.begin, w.begin + new) for w in windows])
        # Where histories of one group differ, all are longer than any layer's context.
        history = max(w.history for w in windows)
        inputs = torch.from_numpy(codes), torch.from_numpy(numbers), history
        audio, caches, contexts = self._module.resume(*inputs, *state)
        for window, cache, context in zip(windows, caches, contexts, strict=True):
            padding = max(0, cache.shape[3] - (window.begin + new))  # see `_Window.group`
            self._keep(window, (cache[..., padding:, :], context))
        return audio.cpu().numpy()

    def _pop(self, key: bytes) -> State | None:
        state = self._states.pop(key, None)
        self._bytes -= _num_bytes(state or ())
        return state

    def _keep(self, window: _Window, state: State) -> None:
        begin = max(0, window.codes.shape[1] - self._history_frames)
        key = _key(window.codes[:, begin:], window.begin + window.new)
        self._pop(key)
        self._states[key] = tuple(tensor.clone() for tensor in state)
        self._bytes += _num_bytes(self._states[key])
        most = STATE_BYTES if self._state_bytes is None else self._state_bytes
        while self._bytes > most:
            self._pop(next(iter(self._states)))


def _key(history: np.ndarray, end: int) -> bytes:
    """Name a state by all codes that the frame numbered `end` can hear, and by that number.

    A SHA-256 of shape, number and codes: nobody can make another history of the same name, so what
    is found under it is that history's state, and need not be compared.
    """
    named = f"{history.shape} {end} ".encode()
    return sha256(named + np.ascontiguousarray(history, np.int64).tobytes()).digest()


def _num_bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state)


def runs(
    groups: Mapping[int, tuple[int, ...]], frames: int = DECODER_FRAMES
) -> Iterator[list[int]]:
    """Divide a batch into runs of rows of one group, of so many frames at most or of one row.

    Args:
        groups: By row; a group begins with its number of new frames.
        frames: New ones, of all rows together.
    """
    found: dict[tuple[int, ...], list[int]] = {}
    for row, group in groups.items():
        found.setdefault(group, []).append(row)
    for group, rows in found.items():
        count = max(1, frames // group[0])
        yield from (rows[begin : begin + count] for begin in range(0, len(rows), count))


def encode(module: Callable[..., Any], described: Mapping[str, str], arrays: Arrays) -> np.ndarray:
    """Encode recordings chunk by chunk, each of `ENCODER_FRAMES` at most.

    Args:
        module: A `KernelEncoder`, as loaded from its file.
        described: The file's description.
        arrays: `waveform` and `chunk_frames`, as `engine.codec.encoder.EncoderGraph` takes them.

    Returns:
        Codes, int64 (rows, codebooks, frames).

    Raises:
        ValueError: If the waveform does not fit the codec.
    """
    waveform = arrays["waveform"]
    rows, samples = waveform.shape
    frame, limit = int(described["samples_per_frame"]), int(described["frames"])
    frames = -(-samples // frame)
    if not 1 <= frames <= limit:  # the module does not check where its tables end
        raise ValueError(f"waveform has {samples} samples, expected 1 to {limit * frame}.")
    chunk = max(1, min(int(arrays["chunk_frames"].min()), ENCODER_FRAMES) // rows)
    whole = np.pad(waveform, ((0, 0), (0, frames * frame - samples)))
    whole = torch.from_numpy(whole).unflatten(1, (frames, frame))
    state, codes = torch.zeros(rows, int(described["state_size"])), []
    with torch.inference_mode():
        for begin in range(0, frames, chunk):
            new, state = module(whole[:, begin : begin + chunk], state, torch.tensor(begin * frame))
            codes.append(new)
        return torch.cat(codes, 2).numpy()
