"""Repetition-aware sampling: a semantic token that was said a moment ago is drawn once more.

Upstream's main does so for S2, and its rules are these: the second draw is at temperature 1 and
top_p 0.9, with the caller's top_k, and stands whatever it is; the first frame is never looked at.
"""

import numpy as np
import torch
from torch import Tensor

from engine.lm.runner import PENALTY_FRAMES, Runner
from engine.schedule.generation import Generation

TEMPERATURE, TOP_P = 1.0, 0.9  # of the second draw


def without_repeats(
    runner: Runner, active: list[Generation], logits: Tensor, choices: Tensor, top_k: Tensor
) -> Tensor:
    """Replace repeated choices of the requests that ask for it; greedy ones are left alone.

    Args:
        runner: The language model.
        active: Of the first rows.
        logits: (rows, choices), of the slow transformer.
        choices: int64 (rows,), the first draws.
        top_k: int64 (rows,).

    Returns:
        int64 (rows,).
    """
    recent = [generation.said_recently() for generation in active]
    if not any(len(tokens) for tokens in recent):
        return choices
    said = np.full((len(logits), PENALTY_FRAMES), -1, np.int64)
    for row, tokens in zip(said, recent, strict=False):
        row[: len(tokens)] = tokens
    window = torch.from_numpy(said).to(choices.device)
    first = choices.clone()  # the next draw may be written where this one is
    draws = [generation.draw for generation in active]
    ones = torch.ones(len(logits), device=logits.device)
    second = runner.sample_token(
        logits, torch.full_like(window, -1), TEMPERATURE * ones, TOP_P * ones, ones,
        runner.second_noise(draws, len(logits)), top_k,
    )  # fmt: skip
    tokens = runner.vocabulary.token_of(first)
    repeated = (tokens[:, None] == window).any(dim=1) & runner.vocabulary.is_semantic(tokens)
    return torch.where(repeated, second, first)
