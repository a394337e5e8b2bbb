"""What the LLaMA stage does for the first audio: prompts of few lengths, first windows first."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from engine.schedule.scheduler import Scheduler
from support.engine import GREEDY, Collected, mixed, run
from support.genuine import assert_same

pytestmark = pytest.mark.torch


@pytest.fixture
def filling(llama, monkeypatch) -> list[int]:
    """Positions of each prompt's slice; the runner fills slices up, in a cache of fixed size."""
    extend, seen = llama.extend, []

    def extended(inputs):
        if (time := inputs.tokens.shape[2]) > 1:
            seen.append(time)
            assert inputs.past_lengths.max() + time <= inputs.keys.shape[3]
        return extend(inputs)

    monkeypatch.setattr(llama, "extend", extended)
    monkeypatch.setattr(llama, "positions_for", lambda time: -(-time // 64) * 64 if time > 1 else 1)
    monkeypatch.setattr(llama, "fixed_positions", 256)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("stagger", [0, 3])
def test_a_slice_that_is_filled_up_says_the_same(llama, prompts, spoken, filling, stagger) -> None:
    """What fills it lies behind the prompt, where later frames are written."""
    jobs = mixed(prompts, 4)
    results = run(llama, [job[1:] for job in jobs], 3, stagger)
    for (which, _, sampling), got in zip(jobs, results, strict=True):
        assert_same(got.codes, got.reason, spoken[which], sampling.max_new_tokens)
    assert filling
    assert {time % 64 for time in filling} == {0}


def test_a_prompt_is_not_filled_up_beyond_what_a_row_may_hold(
    llama, prompts, filling, monkeypatch
) -> None:
    monkeypatch.setattr(llama, "positions_for", lambda time: 1 << 20 if time > 1 else 1)
    run(llama, [(prompts[0], replace(GREEDY, max_new_tokens=3))])
    assert filling == [prompts[0].shape[1]]


def test_first_windows_go_before_others_of_the_step(llama, prompts, monkeypatch) -> None:
    """The newest request has the first row here, since the one that had it has ended."""
    monkeypatch.setattr(llama.vocabulary, "end_choice", -1)  # no speech ends by itself
    scheduler, sent, requests = Scheduler(llama, 4), [], []

    def submit(name: str, frames: int, first: int) -> None:
        sampling = replace(
            GREEDY, max_new_tokens=frames, first_chunk_frames=first, max_chunk_frames=first
        )
        request = Collected().request(prompts[0], sampling)
        requests.append(replace(request, on_window=lambda w: sent.append((name, w.index))))
        scheduler.submit(requests[-1])

    submit("short", 6, 6)
    submit("old", 12, 4)
    for _ in range(4):
        scheduler.step()
    submit("new", 8, 4)
    while scheduler.step():
        pass
    assert sent.index(("new", 0)) == sent.index(("old", 1)) - 1
