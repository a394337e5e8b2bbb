"""The queue is bounded by time: who would wait too long is told so at once."""

import re
from dataclasses import replace

import pytest

from engine.schedule.queue_time import ServiceTime, expected_wait_s
from engine.schedule.scheduler import Scheduler
from ensemble.contract.errors import OverloadedError
from support.engine import GREEDY, Clock, Collected

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("running", "waiting", "expected"),
    [(0, 0, 0.0), (0, 3, 0.0), (3, 0, 0.0), (3, 1, 2.0), (4, 0, 2.0), (4, 3, 8.0), (0, 4, 2.0)],
)
def test_the_expected_wait(running, waiting, expected) -> None:
    assert expected_wait_s(8.0, running, waiting, slots=4) == expected


def test_the_last_requests_count_most() -> None:
    service = ServiceTime()
    service.ended(10.0)
    assert service.seconds == 10.0
    for _ in range(40):
        service.ended(2.0)
    assert 2.0 < service.seconds < 2.2


def busy(llama, prompts, clock: Clock, slots: int = 2) -> tuple[Scheduler, list[Collected]]:
    """A scheduler whose slots are taken, after requests that kept theirs for 5 s."""
    made = Scheduler(llama, slots, max_wait_s=12)
    first = [Collected() for _ in range(slots)]
    for got in first:
        made.submit(got.request(prompts[0], replace(GREEDY, max_new_tokens=1)))
    made.step()
    assert not made.busy() and made.expected_wait_s() == 0
    made.batch.service.seconds = 5.0
    begun = [Collected() for _ in range(slots)]
    for got in begun:
        made.submit(got.request(prompts[0], replace(GREEDY, max_new_tokens=40)))
    made.step()
    return made, begun


def ask(made: Scheduler, prompts, patience_s: float = float("inf")) -> Collected:
    got = Collected()
    request = got.request(prompts[0], replace(GREEDY, max_new_tokens=2))
    made.submit(replace(request, patience_s=patience_s))
    return got


def test_who_would_wait_too_long_is_refused_at_once(llama, prompts, clock) -> None:
    made, _ = busy(llama, prompts, clock)
    for expected in (2.5, 5.0, 7.5, 10.0):
        assert made.expected_wait_s() == made.stats().expected_wait_s == expected
        ask(made, prompts)
    said = "a slot is expected in 13 s, after 4 requests, and this one may wait 12 s. Try again in"
    with pytest.raises(OverloadedError, match=said):
        ask(made, prompts)
    assert len(made.waiting) == 4


def test_a_callers_own_timeout_counts_when_it_is_shorter(llama, prompts, clock) -> None:
    made, _ = busy(llama, prompts, clock)
    with pytest.raises(OverloadedError, match=re.escape("in 3 s, after 0 requests, and this one")):
        ask(made, prompts, patience_s=2)
    ask(made, prompts, patience_s=3)
    ask(made, prompts, patience_s=1000)
    assert len(made.waiting) == 2


def test_who_has_waited_too_long_is_refused_and_who_has_begun_is_not(llama, prompts, clock) -> None:
    made, begun = busy(llama, prompts, clock)
    late = ask(made, prompts)
    made.waiting.extendleft(made.batch.halve())  # out of memory: these have begun, and wait again
    clock.now += 13
    made.batch.service.seconds = 1.0
    after = ask(made, prompts)
    while made.step():
        pass
    assert str(late.errors[0]) == (
        "no slot became free in 12 s, the limit. Try again later, or add an instance."
    )
    assert isinstance(late.errors[0], OverloadedError) and not late.windows
    assert [got.reason for got in (*begun, after)] == ["stop", "stop", "length"]
    assert not any(got.errors for got in (*begun, after))


def test_without_a_limit_everybody_may_wait(llama, prompts, clock) -> None:
    made, _ = busy(llama, prompts, clock)
    made.max_wait_s = float("inf")
    made.batch.service.seconds = 1e6
    waiting = [ask(made, prompts) for _ in range(5)]
    clock.now += 1e6
    while made.step():
        pass
    assert [got.reason for got in waiting] == ["length"] * 5


def test_a_burst_that_has_slots_is_not_refused(llama, prompts, clock) -> None:
    """It comes between two steps, so none of it has a slot yet; as the warm-up does."""
    made = Scheduler(llama, 4, max_wait_s=1)
    made.batch.service.seconds = 50.0
    burst = [ask(made, prompts) for _ in range(4)]
    with pytest.raises(OverloadedError, match="a slot is expected in 13 s, after 4 requests"):
        ask(made, prompts)
    while made.step():
        pass
    assert [got.reason for got in burst] == ["length"] * 4
