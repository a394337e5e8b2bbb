"""Windows leave in the order in which they are needed, and the decoder is kept busy."""

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine.schedule.outbox import ENOUGH_S, LEAD_S, PATIENCE_S, Backlog, Outbox
from engine.schedule.scheduler import Scheduler
from ensemble.contract.window import Window
from support.engine import GREEDY, Clock, Collected
from support.launched import wait_until

pytestmark = pytest.mark.torch

FRAME_S = 0.05
PACE_S = 0.01  # of the decoder for a frame


class Speech:
    """A request's generation, as far as an outbox looks at it."""

    def __init__(self, listened: bool = True) -> None:
        self.request, self.played_s = SimpleNamespace(is_listened_to=listened), 0.0
        self.begun_s: float | None = None


def speech(listened: bool = True) -> Any:
    return Speech(listened)


def window(index: int, frames: int = 16) -> Window:
    return Window(np.zeros((2, frames), np.int64), np.arange(frames), index, frames, "")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(clock: Clock) -> Outbox:
    """Of a decoder whose pace is known."""
    outbox = Outbox(FRAME_S, clock.monotonic)
    outbox.backlog.looked(0, False, PACE_S)
    outbox.leaving()
    return outbox


def left(outbox: Outbox) -> list[tuple[Any, int]]:
    return [(generation, window.index) for generation, window in outbox.leaving()]


def test_while_the_pace_is_not_known_all_leave_at_once(clock) -> None:
    outbox, speeches = Outbox(FRAME_S, clock.monotonic), [speech() for _ in range(50)]
    for each in speeches:
        outbox.put(each, window(0, 64))
        outbox.put(each, window(1, 64))
    firsts, seconds = [(s, 0) for s in speeches], [(s, 1) for s in speeches]
    assert left(outbox) == firsts + seconds
    assert not outbox


def test_what_is_needed_later_waits_while_the_decoder_has_enough_to_do(outbox, clock) -> None:
    ahead = speech()
    for index in range(6):  # 3.2 s of audio each, which take the decoder 0.64 s
        outbox.put(ahead, window(index, 64))
    # The second is not due for three seconds, but without it the decoder would be idle.
    assert left(outbox) == [(ahead, 0)]
    assert outbox.pause_s() == pytest.approx(0.64 - ENOUGH_S)
    for _ in range(46):  # steps
        clock.now += 0.01
        assert left(outbox) == []
    clock.now += 0.02  # now it has less to do than in ENOUGH_S and two steps
    outbox.put(new := speech(), window(0, 1))
    assert left(outbox) == [(new, 0), (ahead, 1)]


def test_what_is_needed_soon_leaves_whatever_the_decoder_has_to_do(outbox, clock) -> None:
    outbox.backlog.sent(500)  # 5 s
    slow = speech()
    outbox.put(slow, window(0, 8))
    assert left(outbox) == [(slow, 0)]
    outbox.put(slow, window(1, 16))
    outbox.put(slow, window(2, 16))
    assert left(outbox) == []  # it is heard after 5 s, and plays until 5.4
    clock.now += 5.4 - LEAD_S - 0.01
    outbox.backlog.sent(500)
    assert left(outbox) == []
    clock.now += 0.02
    assert left(outbox) == [(slow, 1)]
    outbox.put(slow, window(3, 16))
    assert left(outbox) == []  # and none passes another of its stream
    clock.now += 2 * 16 * FRAME_S
    assert left(outbox) == [(slow, 2), (slow, 3)]


@pytest.mark.parametrize("listened", [True, False])
def test_who_is_late_goes_before_who_is_ahead(outbox, clock, listened) -> None:
    late, ahead = speech(), speech(listened)
    outbox.put(late, window(0))
    outbox.put(ahead, window(0, 64))
    outbox.leaving()
    outbox.put(ahead, window(1, 64))
    outbox.put(ahead, window(2, 64))
    clock.now += 1.0
    outbox.put(late, window(1))
    assert left(outbox)[0] == (late, 1)


def test_what_nobody_listens_to_does_not_starve(outbox, clock) -> None:
    unheard = speech(listened=False)
    outbox.put(unheard, window(0, 64))
    outbox.backlog.sent(1000)
    outbox.leaving()
    begin = clock.now
    while (unheard, 0) not in left(outbox):
        clock.now += 0.1
        outbox.put(speech(), window(0, 10))  # as much as the decoder can do
        assert clock.now - begin <= PATIENCE_S


def test_windows_of_a_request_are_forgotten(outbox) -> None:
    outbox.backlog.sent(1000)
    gone, kept = speech(listened=False), speech(listened=False)
    for index in range(3):
        outbox.put(gone, window(index))
        outbox.put(kept, window(index))
    assert outbox.next_ones(2) == [gone, kept]
    outbox.drop(gone)
    assert outbox.next_ones(4) == [kept]
    assert outbox.clear() == [kept]
    assert not outbox


@dataclass
class Decoder:
    """Decodes what comes in its order, and is looked at now and then."""

    pace_s: float
    queue: deque[tuple[Any, int, float, int]] = field(default_factory=deque)
    free_s: float = 100.0
    done: int = 0
    waited_s: float = 0.0

    def take(self, sent: list[tuple[Any, Window]], now: float) -> None:
        for generation, window in sent:
            self.queue.append((generation, window.index, now, window.num_frames))

    def until(self, now: float) -> list[tuple[Any, int, float]]:
        """What it has decoded by now: of which request, which window, when."""
        heard = []
        while self.queue:
            generation, index, came_s, frames = self.queue[0]
            end = max(self.free_s, came_s) + frames * self.pace_s
            if end > now:
                break
            self.queue.popleft()
            self.free_s, self.done = end, self.done + 1
            self.waited_s += end - frames * self.pace_s - came_s
            heard.append((generation, index, end))
        return heard


def simulated(clock: Clock, outbox: Outbox, pace_s: float, told_s: float) -> tuple[float, float]:
    """Two streams that are made at ten times real time, and a new short one every second.

    Returns:
        The longest that a first window took to be heard, and when the decoder had done all.
    """
    decoder, looked, seen = Decoder(pace_s), clock.now, (0, 0.0)
    longest = 0.0
    long = [speech(), speech()]
    for step in range(1, 20_000):
        clock.now += 0.005
        if step < 4000 and step % 32 == 0:
            for each in long:
                outbox.put(each, window(step // 32 - 1, 32))
        if step < 4000 and step % 200 == 0:
            outbox.put(new := speech(), window(0, 8))
            new.begun_s = clock.now
        decoder.take(outbox.leaving(), clock.now)
        for generation, _, end in decoder.until(clock.now):
            longest = max(longest, end - (generation.begun_s or end))
        if clock.now - looked >= 0.5:
            decoded, waited_s = decoder.done - seen[0], decoder.waited_s - seen[1]
            outbox.backlog.looked(decoder.done, decoded > 0 and waited_s < 0.02 * decoded, told_s)
            looked, seen = clock.now, (decoder.done, decoder.waited_s)
        if step > 4000 and not outbox and not decoder.queue:
            return longest, decoder.free_s
    raise AssertionError("it never ended")


@pytest.mark.parametrize("told", [0.7, 1.0, 1.4])
def test_a_first_window_waits_for_little_and_the_decoder_for_nothing(clock, told) -> None:
    """The decoder has twice as much to do as it can, whatever pace it is believed to have."""
    want_s = 2 * 32 * 125 * PACE_S + 19 * 8 * PACE_S
    outbox = Outbox(FRAME_S, clock.monotonic)
    outbox.backlog.looked(0, False, told * PACE_S)
    longest, end = simulated(clock, outbox, PACE_S, told * PACE_S)
    assert end - 100.0 < 1.02 * want_s + 0.2
    # What is ahead, a window of 32 frames that has begun, and its own eight.
    assert longest < 1.4 * (ENOUGH_S + 0.01 + 2 * 0.32 + 0.08) + 0.3

    clock.now = 100.0
    unknown = Outbox(FRAME_S, clock.monotonic)  # in order of arrival, as it would be without
    longest, end = simulated(clock, unknown, PACE_S, 0.0)
    assert longest > 5 and end - 100.0 < 1.02 * want_s + 0.2


def test_the_backlog_is_corrected_by_what_was_decoded(clock) -> None:
    backlog = Backlog(clock.monotonic)
    backlog.sent(10)
    assert backlog.seconds() == 0
    backlog.looked(0, False, 0.1)
    assert backlog.seconds() == pytest.approx(1.0)
    backlog.sent(20)
    clock.now += 1.5
    assert backlog.seconds() == pytest.approx(1.5)
    backlog.looked(0, False, 0.0)  # it is slower than was believed
    assert backlog.seconds() == pytest.approx(3.0)
    backlog.looked(1, False, 0.0)
    assert backlog.seconds() == pytest.approx(2.0)
    backlog.looked(9, False, 0.0)  # another caller's windows are decoded as well
    assert backlog.seconds() == 0
    backlog.sent(10)  # and this one is lost on the way
    backlog.looked(9, False, 0.0)
    assert backlog.seconds() == pytest.approx(1.0)
    backlog.looked(9, True, 0.0)
    assert backlog.seconds() == 0


@pytest.fixture
def held(llama, prompts, monkeypatch) -> Any:
    """A scheduler that holds the windows of a request which nobody listens to, and its caller."""
    monkeypatch.setattr(llama.vocabulary, "end_choice", -1)  # no speech ends by itself
    scheduler, collected = Scheduler(llama, 2), Collected()
    scheduler.outbox.backlog.looked(0, False, 1.0)
    scheduler.outbox.backlog.sent(100)
    sampling = replace(GREEDY, max_new_tokens=3, first_chunk_frames=64)
    scheduler.submit(collected.request(prompts[0], sampling))
    return SimpleNamespace(scheduler=scheduler, collected=collected)


def ended(scheduler: Scheduler) -> bool:
    return bool(scheduler.outbox) and not scheduler.batch.active


def test_a_held_window_leaves_without_another_step(held) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(held.scheduler.run)
        try:
            wait_until(lambda: ended(held.scheduler))
            assert not held.collected.windows and held.scheduler.busy()
            wait_until(lambda: held.collected.windows)
        finally:
            held.scheduler.close()
    assert held.collected.codes.shape[1] == 3 and not held.collected.errors


def test_a_request_whose_windows_wait_can_be_cancelled(held) -> None:
    for _ in range(5):
        held.scheduler.step()
    assert ended(held.scheduler)
    held.collected.cancelled = True
    held.scheduler.step()
    assert [str(e) for e in held.collected.errors] == ["by the caller"]
    assert not held.scheduler.busy() and not held.collected.windows


def test_a_stop_tells_those_whose_windows_wait(held) -> None:
    for _ in range(5):
        held.scheduler.step()
    assert ended(held.scheduler)
    held.scheduler.close()
    held.scheduler.run()
    assert [str(e) for e in held.collected.errors] == ["the server is shutting down"]
    assert not held.scheduler.outbox
