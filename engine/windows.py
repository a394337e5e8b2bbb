"""The chunk schedule: which frames leave together, and what goes with them to the decoder."""

import time
from dataclasses import dataclass

import numpy as np

from ensemble.contract import LONGEST_CHUNK

_MARGIN = 1.2  # the decoder takes time as well
LAST_GRAIN = 8  # frames; the last window is padded to a multiple, so that few shapes occur


@dataclass(frozen=True)
class Window:
    """Codes for one call of the decoder.

    Attributes:
        codes: int64 (codebooks, history + new), zeros after the valid frames.
        new_frames: int64 (new,), absolute numbers of the frames to decode, -1 for padding.
        index: 0, 1, ... within the request.
        num_frames: Valid frames among the new ones.
        finish_reason: Empty but for the last window, then one of `contract.FINISH_REASONS`.
    """

    codes: np.ndarray
    new_frames: np.ndarray
    index: int
    num_frames: int
    finish_reason: str = ""


class Schedule:
    """Cuts a growing row of frames into windows.

    The first is small, so that sound starts early; each next one is twice as long, up to a
    maximum, since long ones are less work. Equal shapes at equal index let the decoder batch
    windows of different requests. Without a maximum a window stays as long as the last where a
    longer one would come too late for a listener.
    """

    def __init__(
        self, first_frames: int, max_frames: int, history_frames: int, frame_s: float = 0.0
    ) -> None:
        """Args:
        first_frames: New frames of the first window.
        max_frames: Limit of the growth; no less than `first_frames` counts. 0: none is given.
        history_frames: Frames before the new ones that the decoder can still hear.
        frame_s: Seconds of audio in a frame.
        """
        self.size = first_frames
        self.max_frames = max(first_frames, max_frames or LONGEST_CHUNK)
        self.history_frames = history_frames
        self.start = 0
        self.index = 0
        self._pace = None if max_frames else Pace(frame_s)

    def due(self, num_frames: int) -> bool:
        """Whether the frames generated so far fill the next window."""
        return num_frames - self.start >= self.size

    def cut(self, frames: np.ndarray, finish_reason: str = "") -> Window:
        """Take the next window.

        Args:
            frames: int64 (all frames so far, codebooks).
            finish_reason: Set it with the last window, which may be short.
        """
        if finish_reason:
            left = len(frames) - self.start
            self.size = max(1, -(-left // LAST_GRAIN) * LAST_GRAIN)
        valid = min(len(frames) - self.start, self.size)
        history = min(self.start, self.history_frames)
        codes = np.zeros((frames.shape[1], history + self.size), np.int64)
        codes[:, : history + valid] = frames[self.start - history : self.start + valid].T
        new_frames = np.arange(self.start, self.start + self.size, dtype=np.int64)
        new_frames[valid:] = -1
        window = Window(codes, new_frames, self.index, valid, finish_reason)
        self.start += self.size
        longer = min(2 * self.size, self.max_frames)
        if self._pace is None or self._pace.allows(self.start, longer):
            self.size = longer
        self.index += 1
        return window


class Pace:
    """Whether a listener, who plays windows as he gets them, would have to wait for the next."""

    def __init__(self, frame_s: float) -> None:
        """Args:
        frame_s: Seconds of audio in a frame.
        """
        self.frame_s = frame_s
        self._first: tuple[float, int] | None = None  # when he got the first, and its frames

    def allows(self, frames: int, longer: int) -> bool:
        """Whether the next may have `longer` frames; called with each window, `frames` in all.

        Where speech comes more slowly than it is played he waits in any case, and long windows
        are less work.
        """
        now = time.perf_counter()
        if self._first is None:
            self._first = now, frames
            return False
        since, before = now - self._first[0], frames - self._first[1]
        if since >= before * self.frame_s:
            return True
        return longer * since / before * _MARGIN <= frames * self.frame_s - since
