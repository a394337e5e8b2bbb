"""A window of codes: what the LLaMA stage sends and the decoder takes at once.

It lives in the contract because the schedule cuts windows and the codec decodes them, and neither
imports the other.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Window:
    """Codes for one call of the decoder.

    Attributes:
        codes: int64 (codebooks, history + new). Zeros stand behind the valid frames, and before
            those of the history where a speech has not so many.
        new_frames: int64 (new,), absolute numbers of the frames to decode, -1 for padding.
        index: 0, 1, ... within the request.
        num_frames: Valid frames among the new ones.
        finish_reason: Empty but for the last window, which has one of `tensors.FINISH_REASONS`.
    """

    codes: np.ndarray
    new_frames: np.ndarray
    index: int
    num_frames: int
    finish_reason: str = ""

    @property
    def history(self) -> int:
        """Frames before the new ones, padding included."""
        return self.codes.shape[1] - len(self.new_frames)

    def padded(self, history: int, new: int) -> "Window":
        """The same frames in a shape that is no smaller: the decoder gives the same audio."""
        more = new - len(self.new_frames)
        around = ((0, 0), (history - self.history, more))
        return replace(
            self,
            codes=np.pad(self.codes, around),
            new_frames=np.pad(self.new_frames, (0, more), constant_values=-1),
        )
