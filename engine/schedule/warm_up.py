"""The steps whose first time is slow, taken before callers come."""

import numpy as np

from engine.schedule.queue_time import ServiceTime
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import LONGEST_CHUNK, sampling_from

# Nobody listens to these, so that all slots are filled.
_OPTIONS = {"max_new_tokens": 4, "first_chunk_frames": LONGEST_CHUNK}


def warm_up(scheduler: Scheduler) -> None:
    """Take the steps whose first time is slow, so that no caller waits for them."""
    runner, batch, real_time = scheduler.runner, scheduler.batch, scheduler.real_time
    facts, lengths = runner.facts, runner.warm_up_prompts()
    counts = runner.warm_up_counts(most := min(batch.slots, scheduler.max_waiting))
    if real_time is not None:  # it asks for the shape of their times
        counts |= {1 << i for i in range(most.bit_length())}
    alone = [(1, length) for length in lengths[1:] if length <= facts.max_prompt_length]
    for count, length in (*((n, lengths[0]) for n in sorted(counts)), *alone):
        prompt = np.zeros((1 + facts.num_codebooks, length), np.int32)
        sampling = sampling_from(_OPTIONS, facts)
        for _ in range(count):
            scheduler.submit(Request(prompt, sampling, lambda _: None, _raise))
        while scheduler.step():
            pass
    scheduler.stepper.reset_stats()
    batch.service = ServiceTime()
    if real_time is not None:
        real_time.warmed_up()
        batch.in_time = real_time.streams(batch.slots)


def _raise(error: Exception) -> None:
    raise error
