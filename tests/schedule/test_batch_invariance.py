"""Whatever arrives, leaves or shares the batch: every result is the one of a batch of one."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.scheduler import Scheduler
from engine.schedule.step import PREFILL_SLICE
from ensemble.contract.options import Sampling
from support.engine import Collected, run, with_voices

pytestmark = pytest.mark.torch

SLICE = (
    16  # positions: the longest prompt here takes ten steps to prefill, and neighbours end in it
)
JOB = {
    "prompt": 0,
    "prefix": 0,
    "seed": 0,
    "temperature": 0.8,
    "top_p": 0.8,
    "repetition_penalty": 1.1,
    "top_k": 0,
    "ras_window": 0,
    "max_new_tokens": 12,
    "wait": 0,
    "cancel_after": None,
}
JOBS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.integers(0, 2),
            "prefix": st.sampled_from([0, 40, "voice"]),  # positions of the voice's, all: "voice"
            "seed": st.integers(0, 3),
            "temperature": st.sampled_from([0.0, 0.5, 0.8, 1.5]),
            "top_p": st.sampled_from([0.2, 0.8, 1.0]),
            "repetition_penalty": st.sampled_from([1.0, 1.1, 2.0]),
            "top_k": st.sampled_from([0, 1, 5]),
            "ras_window": st.sampled_from([0, 10]),
            "max_new_tokens": st.sampled_from([1, 5, 12]),
            "wait": st.integers(0, 4),  # steps after the one before
            "cancel_after": st.none() | st.integers(0, 6),  # steps after its own arrival
        }
    ),
    min_size=1,
    max_size=7,
)
# The second request is in prefill, with options of its own, when the first one ends, or leaves.
RETIRES_IN_MID_PREFILL = [
    {**JOB, "temperature": 0.0, "top_k": 1, "max_new_tokens": 5},
    {
        **JOB,
        "prompt": 2,
        "top_k": 9,
        "temperature": 1.5,
        "top_p": 1.0,
        "repetition_penalty": 2.0,
        "wait": 1,
    },
]
LEAVES_IN_MID_PREFILL = [
    {**RETIRES_IN_MID_PREFILL[0], "cancel_after": 4, "max_new_tokens": 12},
    RETIRES_IN_MID_PREFILL[1],
]
# The last of two in the batch moves into the row of the first, and takes its options with it.
LAST_ROW_MOVES = [
    {**JOB, "temperature": 0.0, "top_k": 1, "max_new_tokens": 5},
    {
        **JOB,
        "prompt": 1,
        "top_k": 9,
        "ras_window": 10,
        "temperature": 1.5,
        "top_p": 1.0,
        "repetition_penalty": 2.0,
    },
]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    jobs=JOBS,
    slots=st.integers(1, 4),
    voice_bytes=st.sampled_from([0, 60_000, 10**9]),
    prefill_slice=st.sampled_from([SLICE, PREFILL_SLICE]),
)
@example(jobs=RETIRES_IN_MID_PREFILL, slots=2, voice_bytes=0, prefill_slice=SLICE)
@example(jobs=LEAVES_IN_MID_PREFILL, slots=2, voice_bytes=0, prefill_slice=SLICE)
@example(jobs=LAST_ROW_MOVES, slots=2, voice_bytes=0, prefill_slice=PREFILL_SLICE)
def test_the_batch_changes_nothing(llama, builder, jobs, slots, voice_bytes, prefill_slice) -> None:
    """Nor do voices computed before, nor that they have been evicted."""
    scheduler, prompts = Scheduler(llama, slots, prefill_slice=prefill_slice), with_voices(builder)
    scheduler.batch.prefixes = PrefixCache(voice_bytes)
    collected = [Collected() for _ in jobs]
    arrivals = np.cumsum([job["wait"] for job in jobs])
    step = 0
    while (
        step <= arrivals[-1]
        or scheduler.waiting
        or scheduler.batch.active
        or scheduler.batch.prefilling
    ):
        for job, got, arrival in zip(jobs, collected, arrivals, strict=True):
            if arrival == step:
                prompt, voice = prompts[job["prompt"]]
                prefix_length = voice if job["prefix"] == "voice" else min(voice, job["prefix"])
                scheduler.submit(got.request(prompt, _sampling(job), prefix_length))
            if job["cancel_after"] is not None and arrival + job["cancel_after"] == step:
                got.cancelled = True
        scheduler.step()
        assert scheduler.batch.prefixes.stats.num_bytes <= voice_bytes
        step += 1
        assert step < 500
    assert int(scheduler.batch.cache.lengths.sum()) == 0
    for job, got in zip(jobs, collected, strict=True):
        finished = bool(got.windows) and bool(got.windows[-1].finish_reason)
        assert finished != bool(got.errors)  # exactly one end
        assert len(got.errors) <= 1
        if finished:
            (alone,) = run(llama, [(prompts[job["prompt"]][0], _sampling(job))])
            np.testing.assert_array_equal(got.codes, alone.codes)
        else:
            assert job["cancel_after"] is not None


def test_a_neighbour_retires_while_a_prompt_goes_through(llama, builder) -> None:
    """What the examples above rely on: the first ends before the second's prompt is through."""
    scheduler, prompts = Scheduler(llama, 2, prefill_slice=SLICE), with_voices(builder)
    first, second = (Collected() for _ in RETIRES_IN_MID_PREFILL)
    for got, job in zip((first, second), RETIRES_IN_MID_PREFILL, strict=True):
        scheduler.submit(got.request(prompts[job["prompt"]][0], _sampling(job)))
        scheduler.step()
    while not first.windows or not first.reason:
        assert scheduler.batch.prefilling
        scheduler.step()
    assert scheduler.batch.prefilling
    assert not scheduler.batch.active
    options = scheduler.batch.rows.options[:, 0].tolist()
    assert options == [1.5, 1.0, 2.0]  # the row that it has now, with its own


def _sampling(job: dict) -> Sampling:
    names = {field.name for field in fields(Sampling)}
    return Sampling(**{name: value for name, value in job.items() if name in names})
