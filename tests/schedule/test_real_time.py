"""How many streams are played in time, by a clock that a test moves. No torch."""

import numpy as np
import pytest

from engine.schedule.pacing import MARGIN
from engine.schedule.real_time import FORGET_S, RealTime

FRAME_S = 0.048  # 40 ms with the margin


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def estimate(clock: Clock) -> RealTime:
    """After a warm-up in which a step took 10 ms and 2 ms more for each stream."""
    made = RealTime(FRAME_S, clock)
    for size in (1, 2, 4, 8, 16):
        made.stepped(size, 0.010 + 0.002 * size)
    made.warmed_up()
    return made


def repeat(estimate: RealTime, streams: int, step_s: float, times: int = 60) -> None:
    for _ in range(times):
        estimate.stepped(streams, step_s)


def test_nothing_is_known_at_first(clock: Clock) -> None:
    assert RealTime(FRAME_S, clock).streams(16) == 16
    assert MARGIN == 1.2


def test_the_warm_up_says_what_an_idle_machine_can_do(estimate: RealTime) -> None:
    assert estimate.streams(8) == 8
    assert estimate.streams(64) == 15  # 10 + 2 x 15 = 40 ms
    np.testing.assert_allclose(estimate.needed_s(np.array([1, 3, 32])), [0.012, 0.016, 0.084])


def test_measured_steps_move_the_estimate_by_the_shape_of_the_warm_up(estimate: RealTime) -> None:
    repeat(estimate, 4, 0.036)  # twice what it was
    assert estimate.streams(16) == 5  # 2 x (10 + 2 x 5) = 40 ms
    repeat(estimate, 4, 0.018, 200)
    assert estimate.streams(16) >= 14


def test_without_a_warm_up_a_step_grows_with_its_streams(clock: Clock) -> None:
    estimate = RealTime(FRAME_S, clock)
    repeat(estimate, 2, 0.010)
    assert estimate.streams(16) == 8


def test_one_stream_is_always_in_time(estimate: RealTime) -> None:
    repeat(estimate, 1, 5.0)
    assert estimate.streams(16) == 1
    estimate.decoded(9.0)
    assert estimate.streams(16) == 1


def test_the_decoder_counts_where_it_is_slower(estimate: RealTime) -> None:
    estimate.decoded(0.004)
    assert estimate.streams(16) == 5
    for _ in range(100):
        estimate.decoded(0.001)
    assert estimate.streams(16) == 15


def test_prompts_of_those_who_join_count(estimate: RealTime) -> None:
    for step in range(2000):  # 8 streams of 100 frames, whose prompts take 100 ms each
        estimate.stepped(8, 0.026, 0.1 * 8 if step % 100 == 0 else 0.0)
    # 10 + 2 n + n x (100 / 100 ms)
    assert 9 <= estimate.streams(16) <= 11


def test_the_estimate_recovers_after_a_stall(estimate: RealTime) -> None:
    repeat(estimate, 8, 0.026)
    assert estimate.streams(16) == 15
    estimate.stepped(8, 30.0)  # one step hangs: no pace
    assert estimate.streams(16) >= 13
    repeat(estimate, 8, 0.260, 10)  # slow for a while
    assert estimate.streams(16) <= 8
    repeat(estimate, 8, 0.026, 60)
    assert estimate.streams(16) >= 14


def test_a_size_that_was_too_slow_is_tried_again(estimate: RealTime, clock: Clock) -> None:
    repeat(estimate, 5, 0.050)
    repeat(estimate, 4, 0.018)
    assert estimate.streams(16) == 4
    clock.now += FORGET_S - 1
    repeat(estimate, 4, 0.018, 1)
    assert estimate.streams(16) == 4
    clock.now += 2
    repeat(estimate, 4, 0.018, 1)
    assert estimate.streams(16) == 15
    clock.now += FORGET_S + 1
    assert estimate.streams(16) == 15  # idle since: as after the warm-up
