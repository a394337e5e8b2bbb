"""The chunk schedule: how many frames of a speech leave together.

The first chunk is short, so that sound starts early. Later ones are longer, because every window
repeats up to `history_frames` of the frames before it, so that long windows are less work. What a
listener gets, in frames of 46 ms, with the default options if no others are named:

| the stream | chunks |
|--|--|
| one, generated at 4.6 times real time | 8, 8, 16, 32, 64, 64, ... |
| one, at 1.5 times | 8, 8, 8, 16, 16, 16, 32, 32, ... |
| one, at 1.1 times: a longer chunk would come after the last was played | 8, 8, 8, 8, ... |
| one, slower than real time: there are pauses in any case | 8, 8, 16, 32, 64, 64, ... |
| one of two in a batch, at 4.6 times | 8, 8, 16, 32, 32, 32, ... |
| one of three or more, at 4.6 times | 8, 8, 16, 16, 16, 16, ... |
| any, with `max_chunk_frames=32` | 8, 16, 32, 32, ... |
| any, with `first_chunk_frames=4, max_chunk_frames=4` | 4, 4, 4, ... |
| the last chunk of any | the frames that are left, padded to a multiple of 8 |

In a batch, chunks end at the same steps and have equal shapes, so that Triton decodes them as one
batch; a stream whose first frame comes between two such steps has a shorter second chunk.
"""

from collections.abc import Callable

import numpy as np

from engine.schedule.pacing import Pace
from ensemble.contract.facts import Facts
from ensemble.contract.options import LONGEST_CHUNK
from ensemble.contract.window import Window

LAST_GRAIN = 8  # frames; the last window is padded to a multiple, so that few shapes occur
SHORTEST_IN_BATCH = 16  # frames; a shorter window is mostly history, which is decoded again


class ChunkSchedule:
    """Cuts one growing speech into windows.

    Without an explicit maximum, a chunk stays as long as the last one where a longer one would
    come too late (see `Pace`), and in a batch it is cut as `frames_in_batch` says.
    """

    def __init__(
        self, first_frames: int, max_frames: int, history_frames: int, frame_s: float = 0.0,
        clock: Callable[[], float] | None = None,
    ) -> None:  # fmt: skip
        """Args:
        first_frames: New frames of the first window.
        max_frames: Limit of the growth, at least `first_frames`; 0: none is given.
        history_frames: Frames before the new ones that can be heard in them.
        frame_s: Seconds of audio in a frame.
        clock: As in `Pace`.
        """
        self.size = first_frames
        self.max_frames = max(first_frames, max_frames or LONGEST_CHUNK)
        self.history_frames = history_frames
        self.start = 0
        self.index = 0
        self._pace = None if max_frames else Pace(frame_s, clock)

    def due(self, num_frames: int, step: int = 0, batch_size: int = 1) -> bool:
        """Whether the frames generated so far fill the next window.

        Args:
            num_frames: Frames generated so far.
            step: Number of the step, in which every request of the batch gets one frame.
            batch_size: Requests in the step.
        """
        new = num_frames - self.start
        if batch_size == 1 or self._pace is None or not self.index:
            return new >= self.size
        size = min(self.size, frames_in_batch(batch_size))
        return new >= size or (new > 0 and step % size == 0)

    def cut(self, frames: np.ndarray, finish_reason: str = "") -> Window:
        """Take the next window: all frames that are left, but no more than `size`.

        Args:
            frames: int64 (all frames so far, codebooks).
            finish_reason: Given with the last window, which takes all that is left.
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


def frames_in_batch(batch_size: int) -> int:
    """New frames of a window where so many requests have windows in one batch: a power of two."""
    return max(SHORTEST_IN_BATCH, LONGEST_CHUNK >> (batch_size - 1).bit_length())


def of_equal_shape(
    windows: list[Window], longest: int, batch_size: int, facts: Facts
) -> list[Window]:
    """Pad the windows of one step to one shape, which those of later steps will have too.

    Triton makes a batch of windows that wait side by side and have equal shapes. First windows,
    which have no history and are to be heard soon, stay as they are.

    Args:
        windows: Of different requests.
        longest: Frames that the longest speech of the batch has by now.
        batch_size: Requests in the step.
        facts: Limits of the codec.
    """
    if batch_size == 1:
        return windows
    new = max(frames_in_batch(batch_size), *(len(w.new_frames) for w in windows if w.history), 0)
    history = 1 << (longest - 1).bit_length()
    history = min(history, facts.history_frames, facts.max_frames - new)
    return [w.padded(max(history, w.history), new) if w.history else w for w in windows]
