"""Repetition-aware sampling: a semantic token that was said a moment ago is drawn once more.

Upstream's main does so for S2, and its rules are these: the second draw is at temperature 1 and
top_p 0.9, with the caller's top_k, and stands whatever it is; the first frame is never looked at.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.lm.runner import PENALTY_FRAMES, Runner
from engine.schedule.generation import Generation

TEMPERATURE, TOP_P = 1.0, 0.9  # of the second draw


class SecondDraw(NamedTuple):
    """What a second draw of a step's tokens is made with.

    Attributes:
        recent: int64 (rows, PENALTY_FRAMES), tokens that are drawn once more; -1 is none.
        noise: See `Runner.second_noise`.
    """

    recent: Tensor
    noise: Tensor


def second_draw(runner: Runner, active: list[Generation], rows: int) -> SecondDraw | None:
    """Prepare the next tokens' second draw; None if no request asks for one.

    Args:
        runner: The language model.
        active: Of the first rows.
        rows: That are computed.
    """
    recent = [generation.said_recently() for generation in active]
    if not any(len(tokens) for tokens in recent):
        return None
    said = np.full((rows, PENALTY_FRAMES), -1, np.int64)
    for row, tokens in zip(said, recent, strict=False):
        row[: len(tokens)] = tokens
    noise = runner.second_noise([generation.draw for generation in active], rows)
    (on_device,) = runner.to_device(torch.from_numpy(said))
    return SecondDraw(on_device, noise)


def without_repeats(
    runner: Runner, second: SecondDraw, logits: Tensor, choices: Tensor, top_k: Tensor
) -> Tensor:
    """Replace repeated choices of the requests that ask for it; greedy ones are left alone.

    Args:
        runner: The language model.
        second: Of these rows.
        logits: (rows, choices), of the slow transformer.
        choices: int64 (rows,), the first draws.
        top_k: int64 (rows,).

    Returns:
        int64 (rows,).
    """
    first = choices.clone()  # the next draw may be written where this one is
    ones = torch.ones(len(logits), device=logits.device)
    again = runner.sample_token(
        logits, torch.full_like(second.recent, -1), TEMPERATURE * ones, TOP_P * ones, ones,
        second.noise, top_k,
    )  # fmt: skip
    tokens = runner.vocabulary.token_of(first)
    repeated = (tokens[:, None] == second.recent).any(dim=1)
    return torch.where(repeated & runner.vocabulary.is_semantic(tokens), again, first)
