"""Streams are admitted while all of them can be played in time; others wait, or are refused."""

import itertools
import re
from dataclasses import replace

import pytest

from engine.schedule.real_time import RealTime
from engine.schedule.scheduler import Scheduler
from engine.schedule.warm_up import warm_up
from ensemble.contract.errors import OverloadedError
from ensemble.contract.options import LONGEST_CHUNK, Sampling
from support.engine import GREEDY, Collected

pytestmark = pytest.mark.torch
SPEECH = replace(GREEDY, max_new_tokens=5)  # it would end by itself a little later
FILE = replace(SPEECH, first_chunk_frames=LONGEST_CHUNK)  # as the unary front doors ask


class Said(RealTime):
    """An estimate that a test sets."""

    def __init__(self, most: int) -> None:
        super().__init__(0.046)
        self.most = most

    def streams(self, most: int) -> int:
        return min(self.most, most)


def ask(made: Scheduler, prompts, sampling: Sampling = SPEECH) -> Collected:
    got = Collected()
    made.submit(got.request(prompts[0], sampling))
    return got


def to_the_end(made: Scheduler) -> int:
    """The most requests that were ever active."""
    most = 0
    while made.step():
        most = max(most, len(made.batch.active))
    return most


def test_those_beyond_wait_in_order(llama, prompts) -> None:
    made = Scheduler(llama, 8, real_time=Said(3))
    streams = [ask(made, prompts) for _ in range(7)]
    made.step()
    assert (len(made.batch.active), len(made.waiting)) == (3, 4)
    assert [g.request.on_window for g in made.waiting] == [s.windows.append for s in streams[3:]]
    assert made.stats().in_time == 3
    assert to_the_end(made) == 3
    assert all(stream.reason == "length" and not stream.errors for stream in streams)


def test_without_the_setting_all_slots_are_used(llama, prompts) -> None:
    made = Scheduler(llama, 8)
    for _ in range(7):
        ask(made, prompts)
    assert to_the_end(made) == 7
    assert made.stats().in_time == 8


def test_one_stream_is_always_admitted(llama, prompts) -> None:
    for refuses in (False, True):
        made = Scheduler(llama, 8, real_time=Said(0), refuses=refuses)
        stream = ask(made, prompts)
        assert to_the_end(made) == 1
        assert stream.reason == "length"


def test_those_beyond_are_refused_at_once_where_that_is_set(llama, prompts, clock) -> None:
    made = Scheduler(llama, 8, real_time=Said(2), refuses=True)
    made.batch.in_time = 2
    first = [ask(made, prompts) for _ in range(2)]
    said = "with 2 in work no further stream can be played in time. Try again "
    with pytest.raises(OverloadedError, match=f"^{re.escape(said)}in 1 s, or add an instance.$"):
        ask(made, prompts)
    made.step()
    made.batch.service.seconds = 5.0
    with pytest.raises(OverloadedError, match=r"Try again in 3 s"):  # 5 s for two places
        ask(made, prompts)
    file = ask(made, prompts, FILE)  # nobody hears that it comes later
    first[0].cancelled = True
    assert to_the_end(made) == 2
    assert first[1].reason == file.reason == "length"
    assert ask(made, prompts) and ask(made, prompts)  # the places are free again


def test_who_leaves_gives_the_place_to_the_next(llama, prompts) -> None:
    made = Scheduler(llama, 8, real_time=Said(2))
    streams = [ask(made, prompts) for _ in range(3)]
    made.step()
    streams[0].cancelled = True
    made.step()
    assert (len(made.batch.active), len(made.waiting)) == (2, 0)
    to_the_end(made)
    assert [s.reason for s in streams[1:]] == ["length"] * 2


def test_whole_answers_have_all_slots_until_a_stream_is_among_them(llama, prompts) -> None:
    made = Scheduler(llama, 8, real_time=Said(2))
    files = [ask(made, prompts, FILE) for _ in range(5)]
    made.step()
    assert len(made.batch.active) == 5
    stream, file = ask(made, prompts), ask(made, prompts, FILE)
    made.step()
    assert (len(made.batch.active), len(made.waiting)) == (5, 2)  # both behind the five, in order
    for got in files[:4]:
        got.cancelled = True
    made.step()
    assert len(made.batch.active) == 2  # the stream joins; the file would make it late
    assert to_the_end(made) <= 2
    assert stream.reason == file.reason == "length"


def test_who_has_begun_goes_on_when_fewer_are_in_time(llama, prompts) -> None:
    said = Said(4)
    made = Scheduler(llama, 8, real_time=said)
    streams = [ask(made, prompts) for _ in range(4)]
    made.step()
    said.most = 1
    made.waiting.extendleft(made.batch.halve())  # out of memory: all give their rows back
    made.step()
    assert len(made.batch.active) == 4
    to_the_end(made)
    assert all(stream.reason == "length" for stream in streams)


def test_the_wait_is_expected_with_the_places_that_there_are(llama, prompts, clock) -> None:
    made = Scheduler(llama, 8, real_time=Said(2), max_wait_s=12)
    for _ in range(2):
        ask(made, prompts)
    made.step()
    made.batch.service.seconds = 10.0
    assert made.expected_wait_s() == made.stats().expected_wait_s == 5.0
    late = [ask(made, prompts) for _ in range(2)]
    with pytest.raises(OverloadedError, match="a slot is expected in 15 s, after 2 requests"):
        ask(made, prompts)
    clock.now += 13
    made.step()
    assert [str(got.errors[0])[:34] for got in late] == ["no slot became free in 12 s, the l"] * 2


def test_steps_are_measured_and_the_warm_up_is_not_held_back(llama, prompts) -> None:
    """Every step looks at the clock three times, and so takes 45 ms."""
    ticks = itertools.count()

    def clock() -> float:
        return 0.015 * next(ticks)

    for frame_s, streams in ((0.092, 8), (0.030, 1)):
        real_time = RealTime(frame_s, clock)
        made = Scheduler(llama, 8, real_time=real_time)
        warm_up(made)
        assert set(real_time._warm) == {1, 2, 4, 8}
        assert made.batch.in_time == streams
        for _ in range(3):
            ask(made, prompts)
        assert to_the_end(made) == min(3, streams)


def test_those_who_wait_are_checked_now_and_then(llama, prompts) -> None:
    """To wait is usual there, and each check makes a step longer."""
    made = Scheduler(llama, 8, real_time=Said(1))
    checks = [0] * 3

    def checked(index: int) -> str:
        checks[index] += 1
        return "by the caller" * (index == 2)

    sampling = Sampling(seed=1, max_new_tokens=9)  # this seed speaks on
    got = [Collected() for _ in range(3)]
    for index, each in enumerate(got):
        request = each.request(prompts[0], sampling)
        made.submit(replace(request, why_cancelled=lambda index=index: checked(index)))
    for _ in range(9):
        made.step()
    assert (checks[0], checks[1] + checks[2]) == (8, 2)
    to_the_end(made)
    assert len(got[2].errors) == 1 and not got[2].windows
    assert got[0].windows[-1].finish_reason and got[1].windows[-1].finish_reason
