"""How the next token or code is chosen, and the random numbers that it is drawn with.

Source: `logits_to_probs` and `sample`, fish-speech 0.1.0, models/text2semantic/inference.py: the
same operations in the same order, for a batch, with the random numbers as an input.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.lm.runner import Draw


def exponential_noise(draw: Draw, count: int, again: bool = False) -> np.ndarray:
    """float32 (count,) from Exp(1), never 0: a function of `draw` alone.

    Args:
        draw: Which frame of which request.
        count: How many numbers.
        again: Others, for a second draw in the same frame.
    """
    # The counter's highest word: no first draw is so long that it would reach the second.
    counter = np.array([0, 0, 0, int(again)], np.uint64)
    philox = np.random.Philox(key=np.array(draw, np.uint64), counter=counter)
    generator = np.random.Generator(philox)
    noise = generator.standard_exponential(count, dtype=np.float32)
    return np.maximum(noise, np.finfo(np.float32).tiny)


def sample(
    logits: Tensor,
    previous: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    repetition_penalty: Tensor,
    noise: Tensor,
    top_k: Tensor | None = None,
) -> Tensor:
    """Choose one index per row.

    Args:
        logits: (batch, choices).
        previous: int64 (batch, PENALTY_FRAMES), indices chosen recently; below 0 is none.
        temperature: float32 (batch,), >= 0.
        top_p: float32 (batch,); 0 leaves only the best choice: greedy.
        repetition_penalty: float32 (batch,), > 0; 1 changes nothing.
        noise: float32 (batch, choices), drawn from Exp(1).
        top_k: int64 (batch,), choices left at most, the best ones; 0: any number. None: 0 for all.

    Returns:
        int64 (batch,).
    """
    logits = logits.float()
    choices = logits.shape[1]
    penalty = repetition_penalty[:, None]
    penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
    # One column more than there are choices takes the marks of "none".
    marks = torch.zeros_like(F.pad(logits, (0, 1)))
    marks = marks.scatter(1, torch.where(previous < 0, choices, previous), 1.0)
    logits = torch.where(marks[:, :choices] > 0, penalized, logits)

    ranked, order = torch.sort(logits, dim=-1, descending=True)
    # Drop a choice when the mass up to and with it exceeds top_p, but never the first.
    mass = torch.cumsum(torch.softmax(ranked, dim=-1), dim=-1)
    keep = F.pad(mass[:, 1:] <= top_p[:, None], (1, 0), value=1.0)
    if top_k is not None:
        most = torch.where(top_k > 0, top_k, choices)[:, None]
        keep = keep & (torch.arange(choices, device=logits.device) < most)
    ranked = ranked.masked_fill(~keep, float("-inf")) / temperature.clamp(min=1e-5)[:, None]
    # argmax(p / Exp(1)) is a draw from p.
    chosen = (torch.softmax(ranked, dim=-1) / noise).argmax(dim=-1, keepdim=True)
    return order.gather(1, chosen)[:, 0]
