"""The sampler against upstream's `logits_to_probs`: the same probabilities, the same draws."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from engine.lm.runner import PENALTY_FRAMES, Draw, Runner
from engine.lm.sampler import exponential_noise, sample
from engine.schedule.rows import Rows
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling
from support.engine import Collected

pytestmark = pytest.mark.torch
CHOICES = 64
OPTIONS = [  # temperature, top_p, repetition penalty; most of them no bfloat16 numbers
    (0.8, 0.8, 1.1),
    (1.0, 1.0, 1.0),
    (0.7, 0.9, 1.3),
    (1.37, 0.33, 0.71),
    (0.1, 0.999, 2.0),
    (2.0, 0.6, 0.5),
]


def probabilities(
    logits: torch.Tensor, options: Sequence[float], previous: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Upstream's, of float32 (choices,); it holds its options in bfloat16 (`generate`).

    Returns:
        Probabilities, and the choices from the likeliest on: our noise is given to ranks.
    """
    from families.fish_s1.upstream import logits_to_probs

    temperature, top_p, penalty = (torch.tensor(o, dtype=torch.bfloat16) for o in options)
    logits = logits.clone()  # upstream writes the penalties into it
    found = logits_to_probs(logits, temperature, top_p, penalty, previous[previous >= 0])
    return found, logits.argsort(descending=True)


def held_options(llama: Runner, options: Sequence[Sequence[float]]) -> list[torch.Tensor]:
    """Options in the form in which the batch keeps them, one row each."""
    rows = Rows(llama, len(options))
    for row, each in enumerate(options):
        rows.begin(row, *each)
    return list(rows.options.unbind())


def recovered(
    logits: torch.Tensor, previous: torch.Tensor, options: list[torch.Tensor], order: torch.Tensor
) -> torch.Tensor:
    """Our probabilities, read off the draws.

    Row i gives every choice infinite noise but the best, 1, and choice i, n: it wins where
    p[i] / p[best] > n. Halving the interval of n finds that ratio.
    """
    count, best = len(logits), order[0]
    batch = [t.expand(count, *t.shape) for t in (logits, previous)]
    held = [o.expand(count) for o in options]
    low, high, each = torch.full((count,), -60.0), torch.zeros(count), torch.arange(count)
    for _ in range(40):  # of log n
        middle = (low + high) / 2
        noise = torch.full((count, count), float("inf"))
        noise[:, best] = 1.0
        noise[each, each] = middle.exp()
        noise[best, best] = 1.0
        wins = sample(*batch, *held, noise[:, order]) == each
        low, high = torch.where(wins, middle, low), torch.where(wins, high, middle)
    ratios = torch.where(low > -60.0, low.exp(), 0.0)
    return ratios / ratios.sum()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_probabilities_are_upstreams(llama, options) -> None:
    generator = torch.Generator().manual_seed(0)
    held = held_options(llama, [options])
    for spread, recent in [(0.5, 0), (2.0, 5), (2.0, PENALTY_FRAMES), (6.0, PENALTY_FRAMES)]:
        logits = spread * torch.randn(CHOICES, generator=generator)
        previous = torch.full((PENALTY_FRAMES,), -1)
        previous[:recent] = logits.argsort(descending=True)[:recent]  # the likeliest
        if recent:
            previous[0] = previous[1]  # said twice, penalised once
        expected, order = probabilities(logits, options, previous)
        got = recovered(logits, previous, [o[0] for o in held], order)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-7)
        assert torch.equal(got > 1e-20, expected > 1e-20)  # the same choices are left


def check_draw(
    logits: torch.Tensor,
    previous: torch.Tensor,
    options: Sequence[float],
    noise: torch.Tensor,
    drawn: torch.Tensor,
) -> None:
    """One choice is upstream's with the same noise, or level with it."""
    expected, order = probabilities(logits, options, previous)
    raced = expected[order] / noise
    assert raced[(order == drawn).nonzero()] >= (1 - 1e-5) * raced.max()


def test_the_same_noise_draws_the_same(llama) -> None:
    """4,000 rows of one batch, each with its own logits, options and window."""
    rows, generator = 4000, torch.Generator().manual_seed(1)
    rng = np.random.default_rng(1)
    options = [
        tuple(map(float, rng.uniform((0.05, 0.01, 0.5), (2.0, 1.0, 2.0)))) for _ in range(rows)
    ]
    logits = 3 * torch.randn(rows, CHOICES, generator=generator)
    previous = torch.randint(-1, CHOICES, (rows, PENALTY_FRAMES), generator=generator)
    noise = torch.empty(rows, CHOICES).exponential_(generator=generator)
    got = sample(logits, previous, *held_options(llama, options), noise)
    for row in range(rows):
        check_draw(logits[row], previous[row], options[row], noise[row], got[row])


@pytest.mark.parametrize("top_k", [1, 2, 7, CHOICES, CHOICES + 5, 0])
def test_top_k_leaves_the_likeliest(llama, top_k) -> None:
    """As if the others had no logit at all, for the mass that top_p counts is that of all."""
    rows, generator = 500, torch.Generator().manual_seed(4)
    logits = 2 * torch.randn(rows, CHOICES, generator=generator)
    previous = torch.full((rows, PENALTY_FRAMES), -1)
    held = held_options(llama, [(0.9, 0.95, 1.0)] * rows)
    noise = torch.empty(rows, CHOICES).exponential_(generator=generator)
    got = sample(logits, previous, *held, noise, torch.full((rows,), top_k))
    rank = (logits > logits.gather(1, got[:, None])).sum(dim=1)
    assert rank.max() < (top_k or CHOICES)
    everything = sample(logits, previous, *held, noise)
    best = logits.topk(min(top_k or CHOICES, CHOICES)).indices
    kept = (best == everything[:, None]).any(dim=1)
    assert torch.equal(got[kept], everything[kept])  # the race is among fewer, so these still win
    assert kept.all() == (top_k in (0, CHOICES, CHOICES + 5))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Standard deviations by which chi-square exceeds its mean; rare choices are put together."""
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert not counts[~keep].any(), "drew what has no probability"
    freedom = keep.sum() - 1
    value = ((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    return float((value - freedom) / np.sqrt(2 * freedom))


def seeded_noise(seeds: range, frame: int, count: int, more: int) -> torch.Tensor:
    """(2, seeds, count): noise for the token, and for what is drawn `more` numbers later."""
    drawn = [exponential_noise(Draw(seed, frame), 2 * count + more) for seed in seeds]
    noise = torch.from_numpy(np.stack(drawn))
    return torch.stack([noise[:, :count], noise[:, count + more :]])


@pytest.mark.parametrize("frame", [0, 1, 700])
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_draws_of_many_seeds_follow_upstreams_probabilities(llama, options, frame) -> None:
    draws, generator = 4000, torch.Generator().manual_seed(2)
    logits = torch.randn(CHOICES, generator=generator)
    previous = torch.randint(0, CHOICES, (PENALTY_FRAMES,), generator=generator)
    expected = probabilities(logits, options, previous)[0].double().numpy()
    held = [o.expand(draws) for o in held_options(llama, [options])]
    tokens, codes = (
        sample(logits.expand(draws, -1), previous.expand(draws, -1), *held, noise).numpy()
        for noise in seeded_noise(range(draws), frame, CHOICES, more=3)
    )
    for drawn in (tokens, codes):
        counts = np.bincount(drawn, minlength=CHOICES)
        assert chi_square(counts, draws * expected) < 5
        assert np.abs(counts / draws - expected).sum() / 2 < 0.06  # total variation
    # Neither the codes of a frame nor neighbouring seeds know of each other.
    for one, other in ((tokens, codes), (tokens[:-1], tokens[1:])):
        pairs = np.bincount(one * CHOICES + other, minlength=CHOICES**2)
        independent = len(one) * np.outer(expected, expected).ravel()
        assert abs(chi_square(pairs, independent)) < 5


class Watched:
    """A runner that writes down what is drawn, from what."""

    def __init__(self, llama: Runner) -> None:
        self.llama, self.tokens, self.codes = llama, [], []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.llama, name)

    def sample_token(self, *inputs: torch.Tensor) -> torch.Tensor:
        choices = self.llama.sample_token(*inputs)
        self.tokens.append(([t.clone() for t in inputs], choices.clone()))
        return choices

    def fast_loop(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes, logits = self.llama.fast_loop(*inputs)
        self.codes.append(([t.clone() for t in inputs], codes.clone(), logits.clone()))
        return codes, logits


@pytest.mark.slow
def test_every_draw_of_a_batch_is_upstreams(llama, prompts) -> None:
    """Windows of the penalty, options and noise stay with their request as rows come and go."""
    watched: Any = Watched(llama)
    scheduler, collected = Scheduler(watched, 4), []
    for number in range(7):
        temperature, top_p, penalty = OPTIONS[number % 6]
        sampling = Sampling(number, temperature, top_p, penalty, max_new_tokens=12 + 6 * number)
        collected.append(Collected())
        scheduler.submit(collected[-1].request(prompts[number % 3], sampling))
        scheduler.step()
    while scheduler.step():
        pass
    for (inputs, choices), (fast_inputs, codes, fast_logits) in zip(
        watched.tokens, watched.codes, strict=True
    ):
        logits, previous, *options, noise = inputs
        _, _, fast_previous, *fast_options, fast_noise = fast_inputs
        assert all(map(torch.equal, options, fast_options))
        for row, choice in enumerate(choices):
            held = [float(o[row]) for o in options]
            check_draw(logits[row], previous[row], held, noise[row], choice)
            for book in range(codes.shape[1] - 1):
                check_draw(
                    fast_logits[row, book], fast_previous[row, book], held,
                    fast_noise[row, book], codes[row, book + 1],
                )  # fmt: skip
    check_windows(watched, collected)


def check_windows(watched: Any, collected: list[Collected]) -> None:
    """What was penalised is what the same request said in its last 16 frames, no more, no less."""
    said = defaultdict(list)  # windows before a frame, by the frame; some are said twice
    for speech in (c.codes for c in collected):
        for number, frame in enumerate(speech.T):
            recent = speech[:, max(0, number - PENALTY_FRAMES) : number]
            said[tuple(frame)].append(np.sort(_padded(recent)).tolist())
    seen = 0
    for (inputs, choices), (fast_inputs, codes, _) in zip(
        watched.tokens, watched.codes, strict=True
    ):
        for row, choice in enumerate(choices):
            if choice != watched.vocabulary.end_choice:
                found = torch.cat([inputs[1][row][None], fast_inputs[2][row]]).clamp(min=-1)
                said[tuple(codes[row].tolist())].remove(np.sort(found.numpy()).tolist())
                seen += 1
    assert seen == sum(c.codes.shape[1] for c in collected) > 150


def _padded(recent: np.ndarray) -> np.ndarray:
    blank = np.full((len(recent), PENALTY_FRAMES - recent.shape[1]), -1)
    return np.concatenate([blank, recent], axis=1)
