"""A window of codes: what the LLaMA stage sends and the decoder takes at once.

It lives in the contract because the schedule cuts windows and the codec decodes them, and neither
imports the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# The shape of the window in fish_decoder's warm-up: all zeros, with more rows than any checkpoint
# has codebooks, since a config.pbtxt knows no checkpoint.
_WARM_UP = (32, 8)


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
        codes = np.zeros((len(self.codes), history + new), np.int64)
        begin = history - self.history
        codes[:, begin : begin + self.codes.shape[1]] = self.codes
        new_frames = np.full(new, -1, np.int64)
        new_frames[: len(self.new_frames)] = self.new_frames
        return replace(self, codes=codes, new_frames=new_frames)


def is_warm_up(codes: np.ndarray, new_frames: np.ndarray) -> bool:
    """Whether a batch is the one that Triton sends before the first request: it means nothing."""
    return codes.shape[1:] == _WARM_UP and not codes.any() and not new_frames.any()


def refuse_windows(
    codes: np.ndarray,
    new_frames: np.ndarray,
    codebooks: int,
    max_frames: int,
    sizes: Sequence[int] = (),
) -> None:
    """Refuse windows that the checkpoint cannot mean, before they reach tables or kept states.

    Args:
        codes: int64 (rows, codebooks, history + new).
        new_frames: int64 (rows, new).
        codebooks: The checkpoint's.
        max_frames: The codec decodes no frame beyond this many.
        sizes: Entries of each codebook; () where they are not known.

    Raises:
        ValueError: Says what was expected.
    """
    if codes.ndim != 3 or new_frames.ndim != 2 or codes.shape[1] != codebooks:
        raise ValueError(
            f"codes has shape {list(codes.shape)}, expected [rows, {codebooks}, frames], and "
            f"new_frames {list(new_frames.shape)}, expected [rows, new frames]."
        )
    (rows, _, frames), (numbered, new) = codes.shape, new_frames.shape
    if rows != numbered or not 1 <= new <= frames <= max_frames:
        raise ValueError(
            f"codes is {codes.shape} and new_frames {new_frames.shape}, expected as many rows, "
            f"and at least one new frame among at most {max_frames}."
        )
    begins, steps = new_frames[:, :1], np.arange(new)
    if (
        not ((new_frames == begins + steps) | (new_frames == -1)).all()
        or ((new_frames[:, :-1] < 0) & (new_frames[:, 1:] >= 0)).any()
    ):
        raise ValueError("new_frames does not count up frame by frame, with -1 behind the last.")
    if not -1 <= new_frames.min() <= new_frames.max() < max_frames:
        raise ValueError(
            f"new_frames ends with {new_frames.max()}, expected {max_frames - 1} at most."
        )
    most = np.array(sizes or [np.iinfo(np.int64).max])[:, None]
    if ((codes < 0) | (codes >= most)).any():
        raise ValueError("codes holds an entry that the checkpoint's codebooks do not have.")
