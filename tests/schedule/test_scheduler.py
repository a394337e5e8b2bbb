"""The scheduler against upstream's `generate`, one request at a time and in batches."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.lm.load import load_runner
from engine.lm.placement import Placement
from engine.lm.runner import NewPositions
from engine.schedule.scheduler import Scheduler
from engine.schedule.warm_up import warm_up
from ensemble.contract.errors import OverloadedError
from ensemble.contract.options import Sampling
from ensemble.contract.settings import ROUNDINGS
from support.engine import GREEDY, Collected, mixed, needs_int8, run
from support.genuine import assert_same, greedy

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("count", "slots", "stagger"),
    [(1, 16, 0), (3, 2, 1), (7, 4, 2), (16, 16, 0), (21, 16, 1)],
)
def test_greedy_equals_upstream(llama, prompts, spoken, count, slots, stagger) -> None:
    jobs = mixed(prompts, count)
    results = run(llama, [job[1:] for job in jobs], slots, stagger)
    for (which, _, sampling), got in zip(jobs, results, strict=True):
        assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)


@pytest.mark.slow
@pytest.mark.long
def test_long_speech_stays_upstreams(llama, prompts, tiny_checkpoint, monkeypatch) -> None:
    """1,000 frames, beside requests that come and go; no end, which would come sooner."""
    from families.fish_s1.checkpoint import load_checkpoint, load_llama

    frames = 1000
    model = load_llama(load_checkpoint(tiny_checkpoint), max_seq_len=1280)
    expected = greedy(model, prompts[1], frames, speech_ends=False)
    assert len(np.unique(expected.codes, axis=1).T) > frames // 2  # no loop, which proves little
    monkeypatch.setattr("engine.schedule.generation.runs_away", lambda _: False)
    extend = llama.extend

    def endless(inputs: NewPositions) -> tuple[torch.Tensor, torch.Tensor]:
        logits, state = extend(inputs)
        logits[:, llama.vocabulary.end_choice] = float("-inf")
        return logits, state

    monkeypatch.setattr(llama, "extend", endless)
    scheduler, got = Scheduler(llama, 2), Collected()
    scheduler.submit(got.request(prompts[1], replace(GREEDY, max_new_tokens=frames)))
    for step in range(2 * frames):
        if step % 100 == 0:
            scheduler.submit(Collected().request(prompts[0], Sampling(max_new_tokens=9)))
        if not scheduler.step():
            break
    assert_same(got.codes, got.reason, expected, frames)


@pytest.mark.slow
def test_result_depends_on_prompt_options_and_seed_alone(llama, prompts) -> None:
    jobs = [
        (prompts[i % 3], Sampling(seed=i // 2, temperature=0.6 + 0.1 * (i % 4), max_new_tokens=40))
        for i in range(9)
    ]
    together = run(llama, jobs, slots=5, stagger=2)
    for job, got in zip(jobs, together, strict=True):
        (alone,) = run(llama, [job])
        np.testing.assert_array_equal(got.codes, alone.codes)
        assert got.reason == alone.reason
    first, other = run(llama, [(prompts[1], Sampling(seed=s)) for s in (1, 2)])
    assert not np.array_equal(first.codes, other.codes)


@pytest.mark.parametrize("limit", [1, 7, 8, 9])
def test_length_limit(llama, prompts, limit) -> None:
    (got,) = run(llama, [(prompts[0], Sampling(seed=1, max_new_tokens=limit))])
    assert got.codes.shape[1] == limit  # this seed speaks on
    assert got.reason == "length"


def test_chunks_do_not_change_codes(llama, prompts) -> None:
    schedules = [(8, 64), (1, 1), (3, 5), (50, 50)]
    jobs = [
        (prompts[0], Sampling(seed=4, first_chunk_frames=f, max_chunk_frames=m))
        for f, m in schedules
    ]
    results = run(llama, jobs)
    for got in results[1:]:
        np.testing.assert_array_equal(got.codes, results[0].codes)


def test_cancelled_request_frees_its_slot(llama, prompts) -> None:
    scheduler = Scheduler(llama, 2)
    gone, stays, waits = Collected(), Collected(), Collected()
    for c in (gone, stays, waits):
        scheduler.submit(c.request(prompts[0], Sampling(seed=3, max_new_tokens=30)))
    for _ in range(4):
        scheduler.step()
    assert len(scheduler.batch.active) == 2
    gone.cancelled = True
    scheduler.step()
    assert len(gone.errors) == 1
    assert not any(w.finish_reason for w in gone.windows)
    while scheduler.step():
        pass
    np.testing.assert_array_equal(stays.codes, waits.codes)
    assert int(scheduler.batch.cache.lengths.sum()) == 0


def test_full_queue_and_too_long_prompt_are_refused_at_once(llama, prompts) -> None:
    scheduler = Scheduler(llama, 1, max_waiting=2)
    for _ in range(2):
        scheduler.submit(Collected().request(prompts[0], GREEDY))
    with pytest.raises(OverloadedError, match="2 requests are waiting"):
        scheduler.submit(Collected().request(prompts[0], GREEDY))
    long = np.repeat(prompts[0][:, :1], llama.facts.max_prompt_length + 1, axis=1)
    with pytest.raises(ValueError, match="positions, expected 1 to"):
        Scheduler(llama, 1).submit(Collected().request(long, GREEDY))


@pytest.mark.parametrize("where", ["_extend", "_sample"])
def test_a_failing_step_fails_its_requests_and_not_the_engine(
    llama, prompts, monkeypatch, where
) -> None:
    import threading

    scheduler, hit, after = Scheduler(llama, 2), Collected(), Collected()
    broken = RuntimeError("out of memory")

    def fail(*_: object) -> None:
        monkeypatch.undo()
        raise broken

    monkeypatch.setattr(scheduler.stepper, where, fail)
    thread = threading.Thread(target=scheduler.run)
    scheduler.submit(hit.request(prompts[0], GREEDY))
    thread.start()
    done = threading.Event()
    while not hit.errors:
        done.wait(0.01)
    scheduler.submit(after.request(prompts[0], GREEDY))
    while not (after.windows and after.reason):
        done.wait(0.01)
    scheduler.close()
    thread.join()
    assert hit.errors == [broken]


def test_waiting_prompts_go_through_together(llama, prompts) -> None:
    scheduler, jobs = Scheduler(llama, 8), [(prompts[i % 2], Sampling(seed=i)) for i in range(6)]
    collected = [Collected() for _ in jobs]
    for got, job in zip(collected, jobs, strict=True):
        scheduler.submit(got.request(*job))
    scheduler.step()
    assert len(scheduler.batch.active) == len(jobs)
    while scheduler.step():
        pass
    for got, (alone,) in zip(collected, (run(llama, [job]) for job in jobs), strict=True):
        np.testing.assert_array_equal(got.codes, alone.codes)


def test_prefill_in_slices_equals_prefill_at_once(llama, prompts) -> None:
    (whole,) = run(llama, [(prompts[2], GREEDY)])
    (sliced,) = run(llama, [(prompts[2], GREEDY)], prefill_slice=16)
    np.testing.assert_array_equal(sliced.codes, whole.codes)


def test_warm_up_leaves_no_trace(llama, prompts) -> None:
    scheduler = Scheduler(llama, 3)
    warm_up(scheduler)
    stats = scheduler.stats()
    assert (stats.frames, stats.steps, stats.seconds, stats.active) == (0, {}, {}, 0)
    got = Collected()
    scheduler.submit(got.request(prompts[0], Sampling(seed=3, max_new_tokens=20)))
    while scheduler.step():
        pass
    (cold,) = run(llama, [(prompts[0], Sampling(seed=3, max_new_tokens=20))])
    np.testing.assert_array_equal(got.codes, cold.codes)


@pytest.mark.slow
@needs_int8
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_rounded_result_is_the_same_in_any_batch(repository, prompts, rounding) -> None:
    placement = Placement(torch.device("cpu"), torch.bfloat16, rounding=rounding)
    rounded = load_runner(repository / "fish_llama" / "1", placement)
    jobs = [(prompts[i % 3], Sampling(seed=i, max_new_tokens=30)) for i in range(6)]
    for job, got in zip(jobs, run(rounded, jobs, slots=4, stagger=2), strict=True):
        (alone,) = run(rounded, [job])
        np.testing.assert_array_equal(got.codes, alone.codes)
