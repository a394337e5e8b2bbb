"""Whatever arrives, leaves or shares the batch: every result is the one of a batch of one."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.schedule.prefix_cache import PrefixCache
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling
from support.engine import Collected, run, with_voices

pytestmark = pytest.mark.torch

JOBS = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": st.integers(0, 2),
            "shares_voice": st.booleans(),
            "seed": st.integers(0, 3),
            "max_new_tokens": st.sampled_from([1, 5, 12]),
            "wait": st.integers(0, 4),  # steps after the one before
            "cancel_after": st.none() | st.integers(0, 6),  # steps after its own arrival
        }
    ),
    min_size=1,
    max_size=7,
)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(jobs=JOBS, slots=st.integers(1, 4), voice_bytes=st.sampled_from([0, 60_000, 10**9]))
def test_the_batch_changes_nothing(llama, builder, jobs, slots, voice_bytes) -> None:
    """Nor do voices computed before, nor that they have been evicted."""
    scheduler, prompts = Scheduler(llama, slots), with_voices(builder)
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
                prefix_length = voice if job["shares_voice"] else 0
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


def _sampling(job: dict) -> Sampling:
    return Sampling(seed=job["seed"], max_new_tokens=job["max_new_tokens"])
