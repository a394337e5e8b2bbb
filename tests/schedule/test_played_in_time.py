"""The estimate's promise, simulated: streams that it allows are heard without gaps.

A stage and a decoder that take known times, the real chunk schedule, and listeners. No torch.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.schedule import pacing
from engine.schedule.chunk_schedule import ChunkSchedule
from engine.schedule.real_time import RealTime
from gateway.listener import Listener

FRAME_S = 2048 / 44_100
SECONDS = 30.0
FIRST = 8  # frames of a first chunk


class Speech:
    """One stream; another begins when it ends."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.frames, self.length = 0, int(rng.integers(40, 160))
        self.schedule, self.listener = ChunkSchedule(FIRST, 0, 64, FRAME_S), Listener()

    def window(self, step: int, streams: int) -> int:
        """Its next frame; returns those of the window that is due with it, or 0."""
        self.frames += 1
        frames = np.zeros((self.frames, 1))
        if self.frames == self.length:
            return self.schedule.cut(frames, "stop").num_frames
        if self.schedule.due(self.frames, step, streams):
            return self.schedule.cut(frames).num_frames
        return 0


def without_gaps(streams: int, step_s: float, decoding_s: float, monkeypatch) -> float:
    """The share of answers without a gap over 100 ms.

    Args:
        streams: At a time.
        step_s: Of the stage.
        decoding_s: Of the decoder for each frame; windows of a step are a batch, but that of first
            ones is another.
        monkeypatch: Sets the time of `pacing`.
    """
    rng, now, free = np.random.default_rng(0), 0.0, 0.0
    monkeypatch.setattr(pacing, "time", SimpleNamespace(perf_counter=lambda: now))
    speeches = [Speech(rng) for _ in range(streams)]
    listeners = [speech.listener for speech in speeches]
    for step in range(1, int(SECONDS / step_s)):
        now += step_s
        due = [(speech, speech.window(step, streams)) for speech in speeches]
        for is_first in (True, False):
            batch = [(s, n) for s, n in due if n and (n <= FIRST) == is_first]
            free = max(free, now) + decoding_s * sum(n for _, n in batch) if batch else free
            for speech, frames in batch:
                speech.listener.hears(free, frames * FRAME_S)
        speeches = [Speech(rng) if s.frames == s.length else s for s in speeches]
        listeners += [s.listener for s in speeches if not s.frames]
    heard = [each for each in listeners if each._played_out_s is not None]
    return sum(max(each.gaps_s, default=0.0) <= 0.1 for each in heard) / len(heard)


@pytest.mark.parametrize(
    ("first_ms", "more_ms", "decoding_ms"),
    [(6, 2, 0.8), (20, 2.5, 1), (4, 0.5, 3.5), (4.5, 0.75, 0.6), (10, 0.5, 6)],
    ids=["stage", "slow stage", "decoder", "a GPU", "slow decoder"],
)
def test_what_is_allowed_is_heard_and_twice_as_much_is_not(
    first_ms, more_ms, decoding_ms, monkeypatch
) -> None:
    estimate = RealTime(FRAME_S)
    for size in (1, 2, 4, 8, 16, 32, 64):
        estimate.stepped(size, (first_ms + more_ms * size) / 1000)
    estimate.warmed_up()
    estimate.decoded(decoding_ms / 1000)
    allowed = estimate.streams(64)
    assert allowed > 2

    def share(streams: int) -> float:
        step_s = (first_ms + more_ms * streams) / 1000
        return without_gaps(streams, step_s, decoding_ms / 1000, monkeypatch)

    assert share(allowed) >= 0.95
    assert share(2 * allowed) < 0.7
