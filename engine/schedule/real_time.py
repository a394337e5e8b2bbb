"""How many streams are played in time: a moving estimate from what steps and windows have taken.

While a frame plays (46 ms), each of n streams needs one more. That takes

    step(n) + n x prompts     seconds of the LLaMA stage: a step, and what prompts of streams that
                              join have taken for each frame that was made
    2 x n x decoding          seconds of the decoder, which works beside it

Streams are played in time while the longer of both is shorter than a frame by the margin that
chunks are cut with (`pacing`). The decoder counts twice, for it must not only keep up: windows of a
batch come together, so that a chunk of 16 frames is heard when those of all streams are decoded,
and the first chunk, which plays meanwhile, had 8 frames and was decoded alone.

A step's time is the moving average for its batch size. Sizes that were not seen for `FORGET_S` are
inferred from those that were, by the shape of the times of the warm-up: so a size that was too slow
is tried again. Stages that share a processor slow each other down; what is measured has that in it.
"""

import time
from collections.abc import Callable

import numpy as np

from engine.schedule.pacing import MARGIN

FORGET_S = 60.0  # a size is tried again after so long; a try that fails costs its streams a gap
SHARE_OF_LAST = 0.1  # of an average over about the last ten measurements
MOST_OF_ONE = 2.0  # times its average, that a measurement counts at most: a stall is no pace
COMPANY = 2  # frames in a chunk of a batch for each of the first chunk, which has to last so long
PROMPT_STEPS = 256  # that the cost of prompts is averaged over: a few speeches


def averaged(average: float, measured: float) -> float:
    """The next value of a moving average; 0 before the first."""
    if not average:
        return measured
    return average + SHARE_OF_LAST * (min(measured, MOST_OF_ONE * average) - average)


class RealTime:
    """The estimate of one LLaMA stage. One thread calls it, but for `decoded`."""

    def __init__(self, frame_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        frame_s: Seconds of audio in a frame.
        clock: Seconds.
        """
        self._frame_s, self._clock = frame_s, clock
        self._warm: dict[int, float] = {}  # seconds of a step by batch size, on an idle machine
        self._steps: dict[int, tuple[float, float]] = {}  # the same now, and when it was last seen
        self._prompts_s, self._frames = 0.0, float(PROMPT_STEPS)
        self._decoding_s = 0.0
        self._since: float | None = None  # when the last step ended; None: idle since
        self._prompts_before_s = 0.0

    def begin(self) -> None:
        """A step begins. What has passed since the last one belongs to it, unless that was idle."""
        if self._since is None:
            self._since = self._clock()

    def end(self, streams: int, prompts_s: float, busy: bool) -> None:
        """The step has ended.

        Args:
            streams: That got a frame in it.
            prompts_s: Seconds that prompts have taken, in all steps so far.
            busy: Whether another step follows.
        """
        now = self._clock()
        spent_s, self._prompts_before_s = prompts_s - self._prompts_before_s, prompts_s
        self.stepped(streams, max(0.0, now - (self._since or now) - spent_s), spent_s)
        self._since = now if busy else None

    def warmed_up(self) -> None:
        """Take what was measured so far as the times of an idle machine; prompts count from 0."""
        self._warm = {size: seconds for size, (seconds, _) in self._steps.items()}
        self._steps, self._prompts_s, self._prompts_before_s = {}, 0.0, 0.0

    def stepped(self, streams: int, step_s: float, prompts_s: float = 0.0) -> None:
        """Count a step.

        Args:
            streams: That got a frame in it.
            step_s: Its seconds, without prompts.
            prompts_s: Seconds of the prompts that were run in it.
        """
        kept = 1 - 1 / PROMPT_STEPS
        self._prompts_s = kept * self._prompts_s + prompts_s
        self._frames = kept * self._frames + streams
        if streams:
            average, _ = self._steps.get(streams, (0.0, 0.0))
            self._steps[streams] = averaged(average, step_s), self._clock()

    def decoded(self, seconds: float) -> None:
        """Count what the decoder took for a frame of one stream."""
        self._decoding_s = averaged(self._decoding_s, seconds)

    def streams(self, most: int) -> int:
        """How many streams are played in time: at least 1, at most `most`."""
        late = self.needed_s(np.arange(1, most + 1)) > self._frame_s / MARGIN
        return max(1, int(late.argmax()) if late.any() else most)

    def needed_s(self, streams: np.ndarray) -> np.ndarray:
        """Seconds for one frame of each of so many streams: float64, like `streams`, ascending."""
        prompts_s = self._prompts_s / self._frames
        decoding_s = COMPANY * streams * self._decoding_s
        return np.maximum(self._step_s(streams) + streams * prompts_s, decoding_s)

    def _step_s(self, streams: np.ndarray) -> np.ndarray:
        """Seconds of a step; 0 if nothing is known."""
        first = self._clock() - FORGET_S
        known = sorted((n, s) for n, (s, seen) in list(self._steps.items()) if seen >= first)
        if not known:
            return self._shape(streams) if self._warm else np.zeros(len(streams))
        sizes, seconds = (np.array(column) for column in zip(*known, strict=True))
        slower = np.interp(streams, sizes, seconds / self._shape(sizes))  # than in the warm-up
        return np.maximum.accumulate(slower * self._shape(streams))

    def _shape(self, streams: np.ndarray) -> np.ndarray:
        """Seconds of a step of the warm-up; beyond its sizes in proportion to the streams."""
        sizes = sorted(self._warm) or [1]
        seconds = [self._warm.get(size, 1.0) for size in sizes]
        return np.interp(streams, sizes, seconds) * np.maximum(1.0, streams / sizes[-1])
