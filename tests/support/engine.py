"""Prompts, requests and runs for tests of the LLaMA stage."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.kernels.cpu import int8_fault
from engine.lm.placement import Placement
from engine.lm.runner import Runner
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from engine.schedule.step import PREFILL_SLICE
from ensemble.contract.options import Sampling
from ensemble.contract.voice import Reference

FULL = Placement(torch.device("cpu"), torch.float32)
needs_int8 = pytest.mark.skipif(int8_fault() is not None, reason=str(int8_fault()))
GREEDY = Sampling(temperature=0, repetition_penalty=1.0, max_new_tokens=50)


def with_voices(builder) -> list[tuple[np.ndarray, int]]:
    """Prompts with 0, 1 and 3 references, of different lengths; positions that are the voice's."""
    rng = np.random.default_rng(0)
    sizes = builder.facts.codebook_sizes
    voice = Reference("Hello there.", np.stack([rng.integers(0, n, 30) for n in sizes]))
    jobs = [("One.", 0), ("Hello world, this is a test of it.", 1), ("Three references", 3)]
    return [builder.build(text, [voice] * count) for text, count in jobs]


class Collected:
    """What one request got."""

    def __init__(self) -> None:
        self.windows, self.errors, self.cancelled = [], [], False

    def request(self, prompt: np.ndarray, sampling: Sampling, prefix_length: int = 0) -> Request:
        return Request(
            prompt,
            sampling,
            self.windows.append,
            self.errors.append,
            lambda: "by the caller" * self.cancelled,
            prefix_length,
        )

    @property
    def codes(self) -> np.ndarray:
        assert [w.index for w in self.windows] == list(range(len(self.windows)))
        news = [w.codes[:, w.codes.shape[1] - len(w.new_frames) :] for w in self.windows]
        return np.concatenate(
            [n[:, : w.num_frames] for n, w in zip(news, self.windows, strict=True)], axis=1
        )

    @property
    def reason(self) -> str:
        return self.windows[-1].finish_reason


def run(
    llama: Runner, jobs: list, slots: int = 16, stagger: int = 0, prefill_slice: int = PREFILL_SLICE
) -> list[Collected]:
    """Run jobs to their ends, each submitted `stagger` steps after the one before."""
    scheduler, collected = Scheduler(llama, slots, prefill_slice=prefill_slice), []
    for prompt, sampling in jobs:
        collected.append(Collected())
        scheduler.submit(collected[-1].request(prompt, sampling))
        for _ in range(stagger):
            scheduler.step()
    while scheduler.step():
        pass
    assert not any(c.errors for c in collected)
    return collected


def mixed(prompts: list[np.ndarray], count: int) -> list[tuple[int, np.ndarray, Sampling]]:
    """Greedy jobs of all lengths: which prompt, the prompt, options."""
    limits = [50, 7, 33, 1, 21, 50, 12]
    return [
        (i % 3, prompts[i % 3], replace(GREEDY, max_new_tokens=limits[i % 7])) for i in range(count)
    ]


class Clock:
    """The time of a scheduler, which passes when a test says so."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now
