"""Pacing: whether a longer chunk still reaches its listener before the last one is played."""

import time
from collections.abc import Callable

# A chunk of n frames is taken to need this many times the seconds of its n frames of codes: it has
# to be decoded and sent as well.
MARGIN = 1.2


class Pace:
    """Follows one stream, whose listener plays every chunk when it arrives."""

    def __init__(self, frame_s: float, clock: Callable[[], float] | None = None) -> None:
        """Args:
        frame_s: Seconds of audio in a frame.
        clock: Seconds that have passed; None: the machine's.
        """
        self.frame_s, self._clock = frame_s, clock
        self._first: tuple[float, int] | None = None  # when the first chunk left, and its frames

    def allows(self, frames: int, longer: int) -> bool:
        """Whether the next chunk may have `longer` frames without a pause in what is heard.

        Where frames come more slowly than they are played there are pauses in any case, and long
        chunks are less work.

        Args:
            frames: All that have left so far. To be called once with each chunk.
            longer: Frames that the next chunk would have.
        """
        now = self._clock() if self._clock else time.perf_counter()
        if self._first is None:
            self._first = now, frames
            return False
        since, before = now - self._first[0], frames - self._first[1]
        if since >= before * self.frame_s:
            return True
        return longer * since / before * MARGIN <= frames * self.frame_s - since
