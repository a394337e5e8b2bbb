"""Windows that wait for the decoder here, in the order in which they are needed.

The decoder takes windows as they come. Streams are often made faster than they are played, and the
windows of one whose listener has seconds left to play would then be decoded before the first of a
stream that nobody hears yet. So the decoder is sent no more than keeps it busy, and what is needed
first goes first:

| window | needed |
|--|--|
| the first of a stream | at once: it never waits here |
| a later one | when all before it has been played, if every chunk is played when it comes |
| of a request that nobody listens to | `PATIENCE_S` after it was cut, so that it does not starve |

None is cut differently for it: what a caller gets does not depend on it.
"""

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable

from engine.schedule.generation import Generation
from engine.schedule.real_time import averaged
from ensemble.contract.window import Window

ENOUGH_S = 0.15  # of work that keeps the decoder busy, beside that of two steps of the LLaMA stage
LEAD_S = 1.0  # before it is needed, a window leaves whatever the decoder has to do
PATIENCE_S = 2.0


class Backlog:
    """What the decoder still has to do of what it was sent: an estimate.

    Two threads may call it: one that sends, and one that looks at what was decoded.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        clock: Seconds.
        """
        self._clock, self._lock = clock, threading.Lock()
        self._frames = deque[int]()  # of each window that is not known to be decoded
        self._frame_s = self._free_s = 0.0
        self._seen = 0

    def seconds(self) -> float:
        """Until all is decoded; 0 while the decoder's pace is not known."""
        with self._lock:
            return max(0.0, self._free_s - self._clock())

    def sent(self, frames: int) -> None:
        """Count a window of so many new frames."""
        with self._lock:
            self._frames.append(frames)
            self._free_s = max(self._free_s, self._clock()) + frames * self._frame_s

    def looked(self, decoded: int, was_idle: bool, frame_s: float) -> None:
        """Correct the estimate.

        Args:
            decoded: Windows, since the server's start.
            was_idle: Whether the decoder had nothing to do for a while before: what seems to be
                left then has never come to it.
            frame_s: Seconds that it takes for a frame; 0: as before.
        """
        with self._lock:
            for _ in range(min(len(self._frames), decoded - self._seen)):
                self._frames.popleft()
            if was_idle:
                self._frames.clear()
            self._seen = decoded
            if frame_s:
                self._frame_s = averaged(self._frame_s, frame_s)
            self._free_s = self._clock() + sum(self._frames) * self._frame_s


class Outbox:
    """The windows that have not left. One thread calls it.

    Attributes:
        backlog: Of the decoder.
    """

    def __init__(self, frame_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        frame_s: Seconds of audio in a frame.
        clock: Seconds.
        """
        self.backlog = Backlog(clock)
        self._frame_s, self._clock = frame_s, clock
        self._order = itertools.count()
        self._held: list[tuple[float, int, Generation, Window]] = []  # a heap
        self._last_s, self._step_s = clock(), 0.0

    def __bool__(self) -> bool:
        """Whether any window is left."""
        return bool(self._held)

    def put(self, generation: Generation, window: Window) -> None:
        """Take a window; those of a request come in order, and leave so."""
        now = self._clock()
        if generation.request.is_listened_to:
            is_first = not window.index
            begins_s = now + self.backlog.seconds() if is_first else max(generation.played_s, now)
            generation.played_s = begins_s + window.num_frames * self._frame_s
            needed_s = 0.0 if is_first else begins_s
        else:
            needed_s = now + PATIENCE_S
        heapq.heappush(self._held, (needed_s, next(self._order), generation, window))

    def leaving(self) -> list[tuple[Generation, Window]]:
        """Take out what is to be sent now. To be called after every step."""
        now, leaving = self._clock(), []
        self._step_s, self._last_s = min(LEAD_S, now - self._last_s), now
        while self._held:
            backlog_s = self.backlog.seconds()
            is_soon = self._held[0][0] - now <= LEAD_S
            if not is_soon and backlog_s > self._enough_s:
                break
            _, _, generation, window = heapq.heappop(self._held)
            self.backlog.sent(window.num_frames)
            leaving.append((generation, window))
        return leaving

    def pause_s(self) -> float:
        """Seconds until a window leaves, if no step comes before. There must be one."""
        until_needed_s = self._held[0][0] - LEAD_S - self._clock()
        return max(0.001, min(until_needed_s, self.backlog.seconds() - ENOUGH_S))

    @property
    def _enough_s(self) -> float:
        return ENOUGH_S + 2 * self._step_s

    def next_ones(self, count: int) -> list[Generation]:
        """Whose windows leave next, at most so many."""
        return list(dict.fromkeys(held[2] for held in heapq.nsmallest(count, self._held)))

    def drop(self, generation: Generation) -> None:
        """Forget the windows of a request."""
        self._held = [held for held in self._held if held[2] is not generation]
        heapq.heapify(self._held)

    def clear(self) -> list[Generation]:
        """Forget all; returns whose they were."""
        generations = self.next_ones(len(self._held))
        self._held.clear()
        return generations
