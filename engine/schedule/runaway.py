"""A guard against runaway speech: the same few frames over and over, or silence without end."""

import numpy as np

# 5 s at 21.5 frames/s: no pause and no held vowel lasts as long, and codes never repeat exactly.
LOOP_FRAMES = 108
MAX_PERIOD = 8  # frames; the longest loop that is noticed


def runs_away(frames: np.ndarray) -> bool:
    """Whether the last `LOOP_FRAMES` frames repeat with a period of at most `MAX_PERIOD`.

    Args:
        frames: int64 (frames so far, codebooks). The semantic codes, in column 0, decide: with
            sampling the residual ones of a loop differ a little.
    """
    # It is enough to look at every `MAX_PERIOD`-th frame.
    if len(frames) < LOOP_FRAMES + MAX_PERIOD or len(frames) % MAX_PERIOD:
        return False
    tail = frames[-LOOP_FRAMES - MAX_PERIOD :, 0]
    return any(
        tail[-1] == tail[-1 - period]  # most often not, and then nothing else need be compared
        and np.array_equal(tail[MAX_PERIOD:], tail[MAX_PERIOD - period : -period])
        for period in range(1, MAX_PERIOD + 1)
    )
