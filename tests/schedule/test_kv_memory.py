"""Memory: the scheduler continues with fewer slots when it runs out, and keeps its limit."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from engine.lm.runner import NewPositions, Runner
from engine.schedule.kv_cache import KVCache
from engine.schedule.memory import free_bytes, kv_bytes_per_position, positions_that_fit
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler, TooLargeError
from ensemble.contract.options import Sampling
from support.engine import Collected, run

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")


def fail(_: int = 0) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB.\nmore")


def fail_as_on_a_cpu(_: int = 0) -> None:
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes")


def at_call(number: int, then: Callable[[], None] = fail) -> Callable[[int], None]:
    calls = iter(range(10**6))
    return lambda rows: then() if next(calls) == number else None


class Disturbed:
    """A runner, with something that happens before each call of one of its methods."""

    def __init__(self, llama: Runner, graph: str, before: Callable[[int], None]) -> None:
        self._llama, self._graph, self._before = llama, graph, before

    def __getattr__(self, name: str):
        found = getattr(self._llama, name)
        if name != self._graph:
            return found

        def call(*inputs):
            first = inputs[0]
            self._before(len(first.tokens if isinstance(first, NewPositions) else first))
            return found(*inputs)

        return call


@pytest.fixture(scope="module")
def jobs(prompts) -> list[tuple[np.ndarray, Sampling]]:
    sampling = [{"temperature": 0, "repetition_penalty": 1.2}, {"temperature": 0.9}, {}]
    return [
        (
            prompts[i % 3],
            Sampling(seed=i, max_new_tokens=30, max_chunk_frames=16, **sampling[i % 3]),
        )
        for i in range(7)
    ]


@pytest.fixture(scope="module")
def undisturbed(llama, jobs) -> list[Collected]:
    return [run(llama, [job])[0] for job in jobs]


def disturbed(graphs, jobs, slots: int = 5) -> tuple[Scheduler, list[Collected]]:
    """Run with voices, staggered, to the end."""
    scheduler, collected = Scheduler(graphs, slots), []
    for prompt, sampling in jobs:
        collected.append(Collected())
        request = collected[-1].request(prompt, sampling)
        scheduler.submit(Request(**{**vars(request), "prefix_length": prompt.shape[1] // 2}))
        scheduler.step()
        scheduler.step()
    while scheduler.step():
        pass
    return scheduler, collected


def assert_equal(collected: list[Collected], expected: list[Collected]) -> None:
    for got, want in zip(collected, expected, strict=True):
        assert not got.errors
        np.testing.assert_array_equal(got.codes, want.codes)
        sizes = [w.num_frames for w in want.windows]
        assert [w.num_frames for w in got.windows] == sizes  # not cut otherwise, nothing twice
        assert got.reason == want.reason


@pytest.mark.slow
@pytest.mark.parametrize("graph", ["extend", "sample_token", "fast_loop"])
@pytest.mark.parametrize("number", [0, 1, 4, 9, 16, 23])
def test_out_of_memory_halves_the_slots_and_changes_nothing(
    llama,
    jobs,
    undisturbed,
    caplog,
    graph,
    number,
) -> None:
    caplog.set_level(logging.WARNING)
    scheduler, collected = disturbed(Disturbed(llama, graph, at_call(number)), jobs)
    assert_equal(collected, undisturbed)
    assert (scheduler.batch.slots, len(caplog.messages)) == (2, 1)
    assert "in 5 slots; 2 from now on, no request is lost (CUDA out of memory." in caplog.text
    assert "more" not in caplog.text
    assert len(scheduler.batch.cache.lengths) == 2


def test_as_often_as_it_must(llama, jobs, undisturbed) -> None:
    graphs = Disturbed(llama, "fast_loop", lambda rows: fail_as_on_a_cpu() if rows > 1 else None)
    scheduler, collected = disturbed(graphs, jobs)
    assert scheduler.batch.slots == 1
    assert_equal(collected, undisturbed)


def test_keys_and_values_that_cannot_be_kept_are_computed_anew(
    llama,
    jobs,
    undisturbed,
    monkeypatch,
) -> None:
    monkeypatch.setattr(KVCache, "row", lambda *_: fail())
    graphs = Disturbed(llama, "fast_loop", at_call(17))
    scheduler, collected = Scheduler(graphs, 5), []  # pyright: ignore[reportArgumentType]
    for prompt, sampling in jobs:
        collected.append(Collected())
        scheduler.submit(collected[-1].request(prompt, sampling))
    while scheduler.step():
        pass
    assert scheduler.batch.slots == 2
    assert_equal(collected, undisturbed)


def test_only_a_request_that_is_too_large_by_itself_fails(llama, jobs, undisturbed) -> None:
    """Keys and values beyond 256 positions do not fit: one needs more, in the midst of it."""
    scheduler = Scheduler(llama, 4)
    reserve = KVCache.reserve

    def reserve_or_fail(self: KVCache, rows: int, positions: int) -> None:
        if positions > 256:
            fail()
        reserve(self, rows, positions)

    large, collected = Collected(), [Collected() for _ in jobs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KVCache, "reserve", reserve_or_fail)
        prompt = np.repeat(jobs[2][0], 6, axis=1)[:, :250]
        scheduler.submit(large.request(prompt, Sampling(first_chunk_frames=5)))
        for got, job in zip(collected, jobs, strict=True):
            scheduler.submit(got.request(*job))
        while scheduler.step():
            pass
    assert_equal(collected, undisturbed)
    (error,) = large.errors
    assert isinstance(error, TooLargeError)
    assert "out of memory at 257 positions, as the only request" in str(error)
    (window,) = large.windows
    assert (window.num_frames, window.finish_reason) == (5, "")
    assert scheduler.batch.slots == 1


def test_an_idle_engine_holds_little_and_its_limit_is_known(llama, jobs) -> None:
    facts = llama.facts
    scheduler, _ = disturbed(llama, jobs[:2], slots=2)
    per_position = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * 4
    assert scheduler.kv_bytes_limit == 2 * per_position * facts.max_seq_len
    assert scheduler.batch.cache.num_bytes <= scheduler.kv_bytes_limit
    assert scheduler.batch.cache.num_bytes == 2 * per_position * 256


@pytest.mark.parametrize("most", [0, 700, 1024, 1600, 2100, 4000])
def test_a_request_that_would_need_too_much_waits(llama, prompts, most) -> None:
    """Long and short ones by turns: all end as they do alone, and memory stays within bounds."""
    limit, each = llama.facts.max_seq_len, kv_bytes_per_position(llama.facts, torch.float32)
    jobs = [
        (prompts[i % 3], Sampling(i, max_new_tokens=20 if i % 3 else 400, max_chunk_frames=64))
        for i in range(9)
    ]
    alone = [run(llama, [job])[0] for job in jobs]
    scheduler, collected = Scheduler(llama, 5, max_positions=most), [Collected() for _ in jobs]
    for got, job in zip(collected, jobs, strict=True):
        scheduler.submit(got.request(*job))
    largest, held = 0, 0
    while scheduler.step():
        largest = max(largest, len(scheduler.batch.active))
        held = max(held, scheduler.batch.cache.num_bytes)
    assert_equal(collected, alone)
    assert held <= scheduler.kv_bytes_limit == min(5 * limit, max(most, limit)) * each
    assert largest >= {0: 1, 700: 1, 4000: 5}.get(most, 2)


def test_positions_follow_free_memory(llama, monkeypatch) -> None:
    each = kv_bytes_per_position(llama.facts, torch.float32)
    for free, positions in [(0, 0), (2 * each, 1), (7 * each, 3)]:
        monkeypatch.setattr("engine.schedule.memory.free_bytes", lambda _, free=free: free)
        assert positions_that_fit(llama.facts, torch.float32, CPU) == positions
    assert positions_that_fit(llama.facts, torch.float16, CPU) == 7


def test_free_memory_of_this_machine() -> None:
    before = free_bytes(CPU)
    assert 2**24 < before < 2**44
