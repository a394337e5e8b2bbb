"""The chunk schedule: which frames leave together, and what goes with them to the decoder."""

from dataclasses import dataclass

import numpy as np

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
    """Cuts a growing row of frames into windows whose sizes depend on their index alone.

    The first is small, so that sound starts early; each next one is twice as long, up to a
    maximum, so that the history that goes along is paid for seldom. Equal shapes at equal index
    let the decoder batch windows of different requests.
    """

    def __init__(self, first_frames: int, max_frames: int, history_frames: int) -> None:
        """Args:
        first_frames: New frames of the first window.
        max_frames: Limit of the growth; no less than `first_frames` counts.
        history_frames: Frames before the new ones that the decoder can still hear.
        """
        self.size = first_frames
        self.max_frames = max(first_frames, max_frames)
        self.history_frames = history_frames
        self.start = 0
        self.index = 0

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
        self.size = min(2 * self.size, self.max_frames)
        self.index += 1
        return window
