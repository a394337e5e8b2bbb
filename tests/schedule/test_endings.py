"""Every request ends once, with a last window or an error, whatever becomes of it."""

import threading

import numpy as np
import pytest

from engine.schedule.scheduler import Scheduler
from ensemble.contract.errors import CancelledError, OverloadedError
from ensemble.contract.options import Sampling
from support.engine import GREEDY, Collected

pytestmark = pytest.mark.torch
LONG = Sampling(seed=1, max_new_tokens=400, first_chunk_frames=400)


def ends(collected: Collected) -> list[str]:
    """Reasons of last windows, and errors."""
    reasons = [w.finish_reason for w in collected.windows if w.finish_reason]
    assert all(not w.finish_reason for w in collected.windows[:-1])
    return reasons + [str(error) for error in collected.errors]


def submitted(scheduler: Scheduler, prompt: np.ndarray, sampling: Sampling = LONG) -> Collected:
    collected = Collected()
    scheduler.submit(collected.request(prompt, sampling))
    return collected


def finish(scheduler: Scheduler) -> None:
    while scheduler.step():
        pass
    assert int(scheduler.batch.cache.lengths.sum()) == 0


@pytest.mark.parametrize("chunk", [3, 7, 8, 64])
@pytest.mark.parametrize(("most", "reason"), [(20, "length"), (400, "stop"), (400, "runaway")])
def test_the_last_window_says_why_and_nothing_is_lost(
    llama,
    prompts,
    monkeypatch,
    chunk,
    most,
    reason,
) -> None:
    at = 21 if reason == "runaway" else None
    monkeypatch.setattr("engine.schedule.generation.runs_away", lambda frames: len(frames) == at)
    scheduler = Scheduler(llama, 2)
    sampling = Sampling(2, max_new_tokens=most, first_chunk_frames=chunk, max_chunk_frames=chunk)
    got, other = (
        submitted(scheduler, prompts[0], sampling),
        submitted(scheduler, prompts[1], GREEDY),
    )
    finish(scheduler)
    assert ends(got) == [reason]
    assert len(ends(other)) == 1
    count = got.codes.shape[1]
    assert count == {"length": 20, "runaway": 21}.get(reason, count)
    full, rest = divmod(count, chunk)
    valid = [w.num_frames for w in got.windows]
    assert sum(valid) == count
    assert valid[:full] == [chunk] * full
    assert valid[full:] == [rest] or (not rest and len(valid) == full)


@pytest.mark.parametrize("where", ["waiting", "prefilling", "active"])
def test_a_cancelled_request_is_told_at_once_and_once(llama, builder, prompts, where) -> None:
    long = np.concatenate([prompts[2]] * (1500 // prompts[2].shape[1]), axis=1)
    scheduler = Scheduler(llama, 1 if where == "waiting" else 2)
    batch = scheduler.batch
    stays = submitted(scheduler, prompts[0])
    scheduler.step()
    leaves = submitted(scheduler, long if where == "prefilling" else prompts[1])
    scheduler.step()
    assert bool(scheduler.waiting) == (where == "waiting")
    assert bool(batch.prefilling) == (where == "prefilling")
    assert len(batch.active) == (2 if where == "active" else 1)
    leaves.cancelled = True
    scheduler.step()
    assert ends(leaves) == ["by the caller"]
    assert isinstance(leaves.errors[0], CancelledError)
    assert (len(scheduler.batch.active), len(scheduler.waiting), scheduler.batch.prefilling) == (
        1,
        0,
        None,
    )
    assert ends(stays) == []
    finish(scheduler)
    assert len(ends(stays)) == len(ends(leaves)) == 1


def test_a_long_queue_is_checked_in_turn(llama, prompts) -> None:
    """Cancelled requests make room for others; the rest keep their order."""
    scheduler = Scheduler(llama, 1, max_waiting=40)
    requests = [
        submitted(scheduler, prompts[0], Sampling(seed=s, max_new_tokens=30)) for s in range(40)
    ]
    scheduler.step()
    for leaves in requests[1::2]:
        leaves.cancelled = True
    for _ in range(20):
        scheduler.step()
    assert [len(ends(c)) for c in requests[1:]] == [1, 0] * 19 + [1]
    assert len(scheduler.waiting) == 19
    finished = []
    while scheduler.step():
        finished += [
            i for i, c in enumerate(requests) if i % 2 == 0 and ends(c) and i not in finished
        ]
    assert finished == sorted(finished)
    assert all(len(ends(c)) == 1 for c in requests)


def test_a_shutdown_tells_every_request(llama, builder, prompts) -> None:
    scheduler = Scheduler(llama, 2)
    requests = [submitted(scheduler, prompts[i % 3]) for i in range(6)]
    stepped = threading.Event()
    thread = threading.Thread(target=scheduler.run, args=[lambda _: stepped.set()])
    thread.start()
    assert stepped.wait(30)
    scheduler.close()
    thread.join(30)
    assert not thread.is_alive()
    assert {tuple(ends(c)) for c in requests} <= {("the server is shutting down",), ("stop",)}
    assert sum(bool(c.errors) for c in requests) >= 4
    with pytest.raises(OverloadedError, match="shutting down"):
        submitted(scheduler, prompts[0])
