"""Speech that has become a loop: the same few frames over and over, or a silence without end."""

import numpy as np

LOOP_FRAMES = 108  # 5 s; no pause and no held vowel lasts as long, and codes never repeat exactly
MAX_PERIOD = 8  # frames


def runs_away(frames: np.ndarray) -> bool:
    """Whether the last `LOOP_FRAMES` frames repeat with a period of at most `MAX_PERIOD`.

    Args:
        frames: int64 (frames so far, codebooks). The semantic codes, in column 0, decide: with
            sampling the residual ones of a loop differ a little.
    """
    if len(frames) < LOOP_FRAMES + MAX_PERIOD or len(frames) % MAX_PERIOD:  # not at every frame
        return False
    tail = frames[-LOOP_FRAMES - MAX_PERIOD :, 0]
    return any(
        np.array_equal(tail[MAX_PERIOD:], tail[MAX_PERIOD - period : -period])
        for period in range(1, MAX_PERIOD + 1)
    )
