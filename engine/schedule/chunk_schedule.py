"""The chunk schedule: which frames leave together, and what goes with them to the decoder."""

import time
from dataclasses import dataclass, replace

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.options import LONGEST_CHUNK

_MARGIN = 1.2  # the decoder takes time as well
LAST_GRAIN = 8  # frames; the last window is padded to a multiple, so that few shapes occur
SHORTEST_SHARE = 16  # frames; what they look back on makes shorter ones dear in any company


@dataclass(frozen=True)
class Window:
    """Codes for one call of the decoder.

    Attributes:
        codes: int64 (codebooks, history + new), zeros after the valid frames, and before those of
            the history if there are fewer.
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

    @property
    def history(self) -> int:
        """Frames of it, padding included."""
        return self.codes.shape[1] - len(self.new_frames)

    def padded(self, history: int, new: int) -> "Window":
        """The same for the ear in a shape that is no smaller."""
        more = new - len(self.new_frames)
        around = ((0, 0), (history - self.history, more))
        return replace(
            self,
            codes=np.pad(self.codes, around),
            new_frames=np.pad(self.new_frames, (0, more), constant_values=-1),
        )


class Schedule:
    """Cuts a growing row of frames into windows.

    The first is small, so that sound starts early; each next one is twice as long, up to a
    maximum, since long ones are less work. Without a maximum a window stays as long as the last
    where a longer one would come too late for a listener; and in company windows are short and
    end at the same steps, since many short ones in one batch are as little work as a long one.
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

    def due(self, num_frames: int, step: int = 0, company: int = 1) -> bool:
        """Whether the frames generated so far fill the next window.

        Args:
            num_frames: So many.
            step: Of the engine, which gives one frame to each of its requests.
            company: Requests in it.
        """
        new = num_frames - self.start
        if company == 1 or self._pace is None or not self.index:
            return new >= self.size
        size = min(self.size, share(company))
        return new >= size or (new > 0 and step % size == 0)

    def cut(self, frames: np.ndarray, finish_reason: str = "") -> Window:
        """Take the next window: all frames that are left, but no more than is its size.

        Args:
            frames: int64 (all frames so far, codebooks).
            finish_reason: Set it with the last window.
        """
        left = len(frames) - self.start
        valid = left if finish_reason else min(left, self.size)
        history = min(self.start, self.history_frames)
        window = Window(
            frames[self.start - history : self.start + valid].T,
            np.arange(self.start, self.start + valid, dtype=np.int64),
            self.index,
            valid,
            finish_reason,
        )
        if finish_reason:
            window = window.padded(history, max(1, -(-valid // LAST_GRAIN)) * LAST_GRAIN)
        self.start += valid
        longer = min(2 * self.size, self.max_frames)
        if self._pace is None or self._pace.allows(self.start, longer):
            self.size = longer
        self.index += 1
        return window


def share(company: int) -> int:
    """Frames of a window, where so many requests have windows in one batch: a power of two."""
    return max(SHORTEST_SHARE, LONGEST_CHUNK >> (company - 1).bit_length())


def alike(windows: list[Window], longest: int, company: int, facts: Facts) -> list[Window]:
    """Those of one step in one shape, which others of these requests will have too.

    Triton makes a batch of windows that wait side by side and have equal shapes. First windows,
    which have no history and are to be heard soon, stay as they are.

    Args:
        windows: Of different requests.
        longest: Frames that any request has by now.
        company: Requests.
        facts: Limits of the codec.
    """
    if company == 1:
        return windows
    new = max(share(company), *(len(w.new_frames) for w in windows if w.history), 0)
    history = 1 << (longest - 1).bit_length()
    history = min(history, facts.history_frames, facts.max_frames - new)
    return [w.padded(max(history, w.history), new) if w.history else w for w in windows]


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
