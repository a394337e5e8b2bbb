"""What a precision costs in exactness: against float32, and from one batch size to another.

Both are measured on the weights as the engine runs them. The tokens are random and the same for
every precision (teacher-forced), so an error does not grow by leading to another sequence.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.lm.graphs import LlamaGraphs
from engine.lm.llama import Llama, graphs_for
from engine.lm.sampler import WINDOW
from engine.lm.weights import GRAPHS_FILE, load
from engine.schedule.kv_cache import VIEW_GRAIN
from engine.schedule.request import Active, Request
from ensemble.contract.facts import Facts
from ensemble.contract.options import Sampling
from ensemble.contract.settings import Settings

PROMPT, FRAMES, ROWS = 64, 24, 4  # positions pushed through first; frames compared; sequences


@dataclass(frozen=True)
class Logits:
    """Of every teacher-forced frame: float32 (frames, rows, choices)."""

    slow: Tensor
    residual: Tensor  # (frames, rows, codebooks - 1, choices)


def random_columns(facts: Facts, rows: int, time: int, seed: int = 0) -> Tensor:
    """int64 (rows, 1 + codebooks, time): frames of random codes."""
    generator = torch.Generator().manual_seed(seed)
    books, codes = facts.num_codebooks, min(1024, facts.num_semantic)
    columns = torch.randint(codes, (rows, 1 + books, time), generator=generator)
    columns[:, 0] = columns[:, 1] + facts.semantic_begin_id
    return columns


@torch.inference_mode()
def teacher_forced(folder: Path, settings: Settings) -> Logits:
    """Logits of a checkpoint's export, with its weights in one precision."""
    shape, tensors = load(folder / GRAPHS_FILE)
    facts, device = Facts.load(folder), settings.device
    graphs, _ = graphs_for(shape, tensors, settings)
    del tensors
    columns = random_columns(facts, ROWS, PROMPT + FRAMES).to(device)
    extents = (facts.num_layers, ROWS, facts.num_kv_heads, PROMPT + FRAMES, facts.head_dim)
    cache = [torch.zeros(extents, dtype=settings.dtype, device=device) for _ in range(2)]
    slow, residual = [], []
    for end in range(PROMPT, PROMPT + FRAMES):
        begin = 0 if end == PROMPT else end - 1
        past, times = (torch.full((ROWS,), n, device=device) for n in (begin, end - begin))
        logits, state = graphs.extend(columns[:, :, begin:end], times, past, *cache)
        slow.append(logits.float().cpu())
        residual.append(_residual(graphs, state, columns[:, 1:, end]).float().cpu())
    gc.collect()
    return Logits(torch.stack(slow), torch.stack(residual))


def _residual(graphs: LlamaGraphs, state: Tensor, codes: Tensor) -> Tensor:
    """Logits of the fast transformer when it is given the codes, int64 (rows, codebooks)."""
    fast = graphs.fast
    x, past, logits = torch.stack([state, fast.entries(codes[:, 0])], dim=1), [], []
    for i in range(fast.codebooks - 1):
        last, past = fast.advance(x, i + 1 if past else 0, past)
        logits.append(fast.head(fast.norm(last)))
        x = fast.entries(codes[:, i + 1])[:, None]
    return torch.stack(logits, dim=1)


def errors(found: Logits, exact: Logits) -> dict[str, dict[str, float]]:
    """Of logits and of what is sampled from them at temperature 1; the end token is left out.

    Returns:
        For `semantic` and `residual`: `relative_error` of the logits about their mean (a shift of
        all changes nothing), `kl` in nats (mean, and `kl_max`), and `top1`, how often the best
        choice stays the best.
    """
    pairs = {
        "semantic": (found.slow[..., :-1], exact.slow[..., :-1]),
        "residual": (found.residual, exact.residual),
    }
    return {name: _compared(*pair) for name, pair in pairs.items()}


def _compared(found: Tensor, exact: Tensor) -> dict[str, float]:
    a, b = (t.double() - t.double().mean(dim=-1, keepdim=True) for t in (found, exact))
    log_a, log_b = a.log_softmax(dim=-1), b.log_softmax(dim=-1)
    kl = (log_b.exp() * (log_b - log_a)).sum(dim=-1)
    return {
        "relative_error": ((a - b).norm() / b.norm()).item(),
        "kl": kl.mean().item(),
        "kl_max": kl.max().item(),
        "top1": (a.argmax(dim=-1) == b.argmax(dim=-1)).double().mean().item(),
    }


@torch.inference_mode()
def differing_rows(llama: Llama, batch: int, longest: int) -> dict[str, int]:
    """Rows whose numbers are not bit for bit what they are alone, after one step in company.

    Args:
        llama: As the engine runs it.
        batch: Rows; each has another length.
        longest: Positions of the longest.

    Returns:
        For `slow`: logits, state, keys and values. For `fast`: codes and logits.
    """
    device, books = llama.device, llama.facts.num_codebooks
    generator = torch.Generator().manual_seed(0)
    lengths = torch.linspace(longest // 2, longest - 1, batch).long().to(device)
    keys, values = (llama.new_cache(batch, longest) for _ in range(2))
    for tensor in (keys, values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    columns = random_columns(llama.facts, batch, 1).to(device)
    _, noise = llama.noise([_asking(llama, seed) for seed in range(batch)], batch)
    state = torch.randn(batch, llama.fast_dim, generator=generator).to(device, llama.activations)
    previous = torch.full((batch, books - 1, WINDOW), -1, device=device)

    def step(rows: slice) -> dict[str, list[Tensor]]:
        extent = min(longest, int(lengths[rows].max()) // VIEW_GRAIN * VIEW_GRAIN + VIEW_GRAIN)
        past = keys[:, rows, :, :extent].clone(), values[:, rows, :, :extent].clone()
        one = torch.ones_like(lengths[rows])
        slow = [t.clone() for t in llama.extend(columns[rows], one, lengths[rows], *past)]
        options = torch.full((3, len(one)), 0.8, device=device)
        inputs = (state[rows], columns[rows, 1, 0], previous[rows], *options, noise[rows])
        return {
            "slow": [*slow, *(t[:, range(len(one)), :, lengths[rows]] for t in past)],
            "fast": [t.clone() for t in llama.fast_loop(*inputs)],
        }

    together = step(slice(0, batch))
    return {name: _differing(tensors, name, step) for name, tensors in together.items()}


def _asking(llama: Llama, seed: int) -> Active:
    prompt = np.zeros((1 + llama.facts.num_codebooks, 1), np.int32)
    return Active(Request(prompt, Sampling(seed), print, print), llama.facts)


def _differing(
    together: list[Tensor], name: str, step: Callable[[slice], dict[str, list[Tensor]]]
) -> int:
    count = 0
    for row in range(len(together[0])):
        alone = step(slice(row, row + 1))[name]
        count += not all(torch.equal(t[row], a[0]) for t, a in zip(together, alone, strict=True))
    return count
