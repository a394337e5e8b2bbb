"""The bound on positions in the cache: it holds requests back, and lets them in later."""

import numpy as np
import pytest
import torch

from engine.schedule.kv_cache import GRAIN, KVCache
from engine.schedule.memory import kv_bytes_per_position
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling
from support.engine import Collected

pytestmark = pytest.mark.torch

LIMIT = 4096  # positions of one row, at most: the tiny model's
EXTENT = 9 * GRAIN  # positions that the cache holds for each of the requests below
PROMPT = 8 * GRAIN  # positions of a long prompt
FRAMES = 40  # that follow it: into the ninth grain
FEW = 12  # frames of a short request


def cache(slots: int, most: int | None, limit: int = LIMIT) -> KVCache:
    """With one number for each position."""
    return KVCache(
        lambda rows, positions: torch.zeros(1, rows, 1, positions, 1), slots, limit, most
    )


@pytest.mark.parametrize(
    ("most", "needs", "fits"),
    [
        (2 * EXTENT, [EXTENT, EXTENT], True),
        (2 * EXTENT, [EXTENT, 1], True),  # every row is as long as the longest
        (2 * EXTENT, [EXTENT, EXTENT, 1], False),
        (2 * EXTENT, [EXTENT + 1, 1], False),
        (4 * EXTENT - 1, [EXTENT] * 4, False),
        (4 * EXTENT - 1, [GRAIN] * 35, True),
        (2 * EXTENT, [LIMIT], True),
        (1, [LIMIT], True),  # one request that is alone always fits
        (LIMIT, [LIMIT, 1], False),
        (None, [LIMIT] * 5, True),  # as many rows as there are slots
    ],
)
def test_which_requests_fit_together(most, needs, fits) -> None:
    assert cache(5, most).fits(needs) is fits


def test_a_row_never_needs_more_than_the_models_limit() -> None:
    """The limit is no multiple of the grain, and rounding up must not go beyond it."""
    held = cache(2, 2 * 300, limit=300)
    assert held.fits([290, 290])
    held.reserve(2, 290)
    assert held.keys.shape[3] == 300


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_what_fits_is_held_within_the_bound(rows) -> None:
    """Rows come one by one and grow to their ends, and `likely` asks for more than there may be."""
    held = cache(8, 3 * EXTENT)
    held.likely = 8
    assert held.fits([EXTENT] * rows)
    for length in range(1, EXTENT + 1, 137):
        for row in range(rows):
            held.reserve(row + 1, length)
            held.lengths[row] = length
            assert held.keys[0, :, 0, :, 0].numel() <= held.max_positions
            assert held.keys.shape[1] > row
            assert held.keys.shape[3] >= length


@pytest.fixture
def endless(llama, monkeypatch):
    """Speech that ends with its budget alone, so that a request comes to need what it may."""
    assert llama.facts.max_seq_len == LIMIT  # the bound is never less
    monkeypatch.setattr("engine.schedule.generation.runs_away", lambda _: False)
    extend = llama.extend

    def without_end(*inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, state = extend(*inputs)
        logits[:, llama.vocabulary.end_choice] = float("-inf")
        return logits, state

    monkeypatch.setattr(llama, "extend", without_end)
    return llama


def submitted(scheduler: Scheduler, jobs: list[tuple[np.ndarray, int]]) -> list[Collected]:
    """Prompts and the frames that follow them."""
    collected = [Collected() for _ in jobs]
    for seed, (got, (prompt, frames)) in enumerate(zip(collected, jobs, strict=True)):
        scheduler.submit(got.request(prompt, Sampling(seed, max_new_tokens=frames)))
    return collected


@pytest.fixture(scope="module")
def long_prompt(prompts) -> np.ndarray:
    return np.resize(prompts[1].T, (PROMPT, len(prompts[1]))).T.copy()


def ended(got: Collected) -> bool:
    return bool(got.windows and got.reason)


def test_a_request_beyond_the_bound_waits_until_another_has_ended(endless, long_prompt) -> None:
    """Two fit, with all that they may come to need; the third is let in where one has ended."""
    each = kv_bytes_per_position(endless.facts, torch.float32)
    scheduler = Scheduler(endless, 4, max_positions=2 * EXTENT)
    frames = [FRAMES - 20, FRAMES, FRAMES]
    first, second, third = submitted(scheduler, [(long_prompt, count) for count in frames])
    steps_after, held = 0, 0
    while scheduler.step():
        steps_after += ended(first)
        assert len(scheduler.batch.members()) + len(scheduler.waiting) == 3 - ended(first) - ended(
            second
        )
        if not ended(first):
            assert scheduler.waiting[-1].request.on_window == third.windows.append
        assert steps_after < 2 or not scheduler.waiting  # let in by the step after the end
        held = max(held, scheduler.batch.cache.num_bytes)
    assert held == scheduler.kv_bytes_limit == 2 * EXTENT * each
    for got, count in zip((first, second, third), frames, strict=True):
        assert (got.codes.shape[1], got.reason) == (count, "length")


def test_a_short_request_does_not_overtake_one_that_waits(
    endless,
    prompts,
    long_prompt,
) -> None:
    """Else short ones that keep coming would hold a long one back for ever."""
    scheduler = Scheduler(endless, 4, max_positions=2 * EXTENT - 1)
    jobs = [(prompts[0], FRAMES), (long_prompt, FRAMES), (prompts[0], FEW)]
    running, long, short = submitted(scheduler, jobs)
    scheduler.step()
    while not ended(running):
        assert [active.max_frames for active in scheduler.waiting] == [FRAMES, FEW]
        scheduler.step()
    while scheduler.step():
        assert not short.windows or long.reason
    assert (long.codes.shape[1], short.codes.shape[1]) == (FRAMES, FEW)


def test_with_half_the_slots_the_bound_is_half(endless, prompts) -> None:
    """Out of memory, the scheduler also halves the positions."""
    scheduler = Scheduler(endless, 4, max_positions=4 * EXTENT)
    each = kv_bytes_per_position(endless.facts, torch.float32)
    assert scheduler.kv_bytes_limit == 4 * EXTENT * each
    collected = submitted(scheduler, [(prompts[0], FEW)] * 2)
    scheduler.step()
    scheduler.waiting.extendleft(reversed(scheduler.batch.halve()))
    assert (scheduler.batch.slots, scheduler.batch.cache.max_positions) == (2, 2 * EXTENT)
    assert scheduler.kv_bytes_limit == 2 * EXTENT * each
    while scheduler.step():
        pass
    assert [got.codes.shape[1] for got in collected] == [FEW, FEW]
