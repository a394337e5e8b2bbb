"""Repetition-aware sampling: when a second draw is taken, and from what."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from engine.lm.runner import Draw
from engine.lm.sampler import exponential_noise, sample
from engine.lm.vocabulary import Vocabulary
from engine.schedule.generation import Generation
from engine.schedule.repeats import second_draw, without_repeats
from engine.schedule.request import Request
from ensemble.contract.options import Sampling
from support.facts import FACTS

pytestmark = pytest.mark.torch
CHOICES = FACTS.num_semantic + 1
RAS = Sampling(seed=5, ras_window=10, max_new_tokens=64)


class Drawing:
    """A runner that only draws; `calls` are its draws' inputs."""

    facts, vocabulary, device = FACTS, Vocabulary(FACTS), torch.device("cpu")

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def sample_token(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls.append(inputs)
        return sample(*inputs)

    def to_device(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        return list(tensors)

    def second_noise(self, draws: list[Draw], rows: int) -> torch.Tensor:
        noise = [exponential_noise(draw, CHOICES, again=True) for draw in draws]
        return torch.from_numpy(np.stack(noise))


def said(codes: list[int], sampling: Sampling) -> Generation:
    """A request that has said these semantic codes."""
    prompt = np.zeros((11, 4), np.int32)
    request = Request(prompt, sampling, lambda _: None, lambda _: None)
    generation = Generation(request, FACTS)
    for code in codes:
        column = np.zeros(11, np.int64)
        column[:2] = FACTS.semantic_begin_id + code, code
        generation.add(column)
    return generation


def after(generations: list[Generation], choices: list[int]) -> tuple[list[int], Drawing]:
    runner: Any = Drawing()
    logits = 2 * torch.randn(len(choices), CHOICES, generator=torch.Generator().manual_seed(1))
    top_k = torch.tensor([g.request.sampling.top_k for g in generations])
    if (second := second_draw(runner, generations, len(choices))) is None:
        return choices, runner
    first = torch.tensor(choices)
    return without_repeats(runner, second, logits, first, top_k).tolist(), runner


def is_drawn_again(codes: list[int], choice: int, sampling: Sampling = RAS) -> bool:
    """By what the second draw gives here, which is another choice."""
    again, _ = after([said(codes, sampling)], [choice])
    return again != [choice]


def test_what_was_said_in_the_window_is_drawn_again() -> None:
    assert is_drawn_again([1, 7, 3], 7)
    assert not is_drawn_again([1, 7, 3], 8)
    assert is_drawn_again([1, 7, *range(20, 29)], 7)  # the tenth frame before
    assert not is_drawn_again([1, 7, *range(20, 30)], 7)  # the eleventh
    assert not is_drawn_again([1, 7, 3], 7, dataclasses.replace(RAS, ras_window=1))


def test_the_first_frame_is_not_looked_at() -> None:
    assert not is_drawn_again([], 7)
    assert not is_drawn_again([7], 7)
    assert not is_drawn_again([7, 3], 7)


def test_the_end_stands_and_greedy_requests_are_left_alone() -> None:
    assert not is_drawn_again([1, 7], FACTS.num_semantic)
    greedy = dataclasses.replace(RAS, temperature=0.0)
    assert not is_drawn_again([1, 7], 7, greedy)
    assert not is_drawn_again([1, 7], 7, dataclasses.replace(RAS, ras_window=0))


def test_the_second_draw_is_at_its_own_temperature_with_its_own_noise() -> None:
    sampling = dataclasses.replace(RAS, temperature=0.3, top_p=0.2, top_k=5, repetition_penalty=2.0)
    generations = [said([1, 7, 3], sampling), said([2, 4], dataclasses.replace(RAS, seed=6))]
    got, runner = after(generations, [7, 4])
    _, previous, temperature, top_p, penalty, noise, top_k = runner.calls[0]
    assert (previous == -1).all() and (temperature == 1).all() and (penalty == 1).all()
    assert torch.equal(top_p, torch.full_like(top_p, 0.9)) and top_k.tolist() == [5, 0]
    assert noise[0].tolist() == exponential_noise(Draw(5, 3), CHOICES, again=True).tolist()
    assert got == sample(*runner.calls[0]).tolist()


def test_a_gpus_second_draw_has_counters_of_its_own() -> None:
    from engine.lm.on_gpu import GpuRunner

    runner: Any = object.__new__(GpuRunner)
    runner.facts, runner.device = FACTS, torch.device("cpu")
    draws = [Draw(2**64 - 1, frame) for frame in range(5)]
    slow, fast = runner.noise(draws, 8)
    second = runner.second_noise(draws, 8)
    assert second.shape == slow.shape == (8, 2)
    first = torch.cat([slow[:5, None], fast[:5]], dim=1).flatten(0, 1).tolist()
    again = second[:5].tolist()
    assert len({tuple(key) for key in first + again}) == len(first) + 5
    assert all(seed == -1 for seed, _ in again)


def test_a_second_draw_shares_no_number_with_a_first() -> None:
    first = exponential_noise(Draw(1, 2), 200_000)
    second = exponential_noise(Draw(1, 2), 4097, again=True)
    assert not np.isin(second[:100].view(np.uint32), first.view(np.uint32)).all()
    assert (second != exponential_noise(Draw(1, 3), 4097, again=True)).mean() > 0.99
    assert first[:50].tolist() == exponential_noise(Draw(1, 2), 50).tolist()
