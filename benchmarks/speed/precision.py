"""Errors of a precision: against float32, and between batch sizes.

Both are measured on the weights as the engine runs them. The tokens are random and the same for
every precision (teacher-forced), so an error cannot grow by leading to another sequence.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.lm.graphs import DualArGraphs
from engine.lm.load import graphs_for
from engine.lm.placement import Placement
from engine.lm.runner import PENALTY_FRAMES, Draw, NewPositions, Runner
from engine.lm.weights import GRAPHS_FILE, load
from engine.schedule.kv_cache import VIEW_GRAIN
from ensemble.contract.facts import Facts

PROMPT, FRAMES, ROWS = 64, 24, 4  # positions of the prompt, frames compared, sequences


@dataclass(frozen=True)
class Logits:
    """Logits of every teacher-forced frame.

    Attributes:
        slow: Of the slow transformer, float32 (frames, rows, choices).
        residual: Of the fast transformer, float32 (frames, rows, codebooks - 1, choices).
    """

    slow: Tensor
    residual: Tensor


def random_columns(facts: Facts, rows: int, time: int, seed: int = 0) -> Tensor:
    """Frames of random codes, int64 (rows, 1 + codebooks, time)."""
    generator = torch.Generator().manual_seed(seed)
    books, codes = facts.num_codebooks, min(1024, facts.num_semantic)
    columns = torch.randint(codes, (rows, 1 + books, time), generator=generator)
    columns[:, 0] = columns[:, 1] + facts.semantic_begin_id
    return columns


@torch.inference_mode()
def teacher_forced(folder: Path, placement: Placement) -> Logits:
    """Logits of an exported checkpoint, its weights in the precision of the placement."""
    shape, tensors = load(folder / GRAPHS_FILE)
    facts, device = Facts.load(folder), placement.device
    graphs = graphs_for(shape, tensors, placement)
    del tensors
    columns = random_columns(facts, ROWS, PROMPT + FRAMES).to(device)
    extents = (facts.num_layers, ROWS, facts.num_kv_heads, PROMPT + FRAMES, facts.head_dim)
    cache = [torch.zeros(extents, dtype=placement.dtype, device=device) for _ in range(2)]
    slow, residual = [], []
    for end in range(PROMPT, PROMPT + FRAMES):
        begin = 0 if end == PROMPT else end - 1
        past, times = (torch.full((ROWS,), n, device=device) for n in (begin, end - begin))
        logits, state = graphs.extend(columns[:, :, begin:end], times, past, *cache)
        slow.append(logits.float().cpu())
        residual.append(_residual(graphs, state, columns[:, 1:, end]).float().cpu())
    gc.collect()
    return Logits(torch.stack(slow), torch.stack(residual))


def _residual(graphs: DualArGraphs, state: Tensor, codes: Tensor) -> Tensor:
    """Logits of the fast transformer, given all codes, int64 (rows, codebooks)."""
    fast = graphs.fast
    x, past, logits = torch.stack([state, fast.entries(codes[:, 0])], dim=1), [], []
    for i in range(fast.codebooks - 1):
        last, past = fast.advance(x, i + 1 if past else 0, past)
        logits.append(fast.head(fast.norm(last)))
        x = fast.entries(codes[:, i + 1])[:, None]
    return torch.stack(logits, dim=1)


def errors(found: Logits, exact: Logits) -> dict[str, dict[str, float]]:
    """Errors of logits, and of sampling from them at temperature 1, without the end token.

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
def differing_rows(llama: Runner, batch: int, longest: int) -> dict[str, int]:
    """Count rows of a batch whose results differ in any bit from batch size 1, after one step.

    Args:
        llama: The model as the engine runs it.
        batch: Number of rows, each of another length.
        longest: Positions of the longest row.

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
    _, noise = llama.noise([Draw(seed, 0) for seed in range(batch)], batch)
    state = torch.randn(batch, llama.state_dim, generator=generator).to(device, llama.state_dtype)
    previous = torch.full((batch, books - 1, PENALTY_FRAMES), -1, device=device)

    def step(rows: slice) -> dict[str, list[Tensor]]:
        extent = min(longest, int(lengths[rows].max()) // VIEW_GRAIN * VIEW_GRAIN + VIEW_GRAIN)
        past = keys[:, rows, :, :extent].clone(), values[:, rows, :, :extent].clone()
        one = torch.ones_like(lengths[rows])
        slow = [
            t.clone() for t in llama.extend(NewPositions(columns[rows], one, lengths[rows], *past))
        ]
        option = torch.full((len(one),), 0.8, device=device)
        options = option, option, option
        return {
            "slow": [*slow, *(t[:, range(len(one)), :, lengths[rows]] for t in past)],
            "fast": [
                t.clone()
                for t in llama.fast_loop(
                    state[rows], columns[rows, 1, 0], previous[rows], *options, noise[rows]
                )
            ],
        }

    batched = step(slice(0, batch))
    return {name: _differing(tensors, name, step) for name, tensors in batched.items()}


def _differing(
    batched: list[Tensor], name: str, step: Callable[[slice], dict[str, list[Tensor]]]
) -> int:
    count = 0
    for row in range(len(batched[0])):
        single = step(slice(row, row + 1))[name]
        count += not all(torch.equal(t[row], s[0]) for t, s in zip(batched, single, strict=True))
    return count
