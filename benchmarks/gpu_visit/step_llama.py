"""The LLaMA stage in process: a decode step and its parts by batch, and prefill."""

import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.gpu_visit import artefacts, clock, step_card
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.speed import engine
from benchmarks.speed.bounds import DTYPES, LlamaWork, Rates
from engine.lm.load import load_runner
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import placement_for
from engine.lm.runner import NewPositions
from ensemble.contract.settings import server_settings

PRECISIONS = {"cuda": ("half", "bf16", "full"), "cpu": ("half", "full")}


@dataclass(frozen=True)
class Plan:
    """Attributes:
    batches: Requests decoded together; of the precision that is served first.
    few_batches: Of the other precisions.
    kv: Positions that each request holds.
    steps: Of each batch.
    prompts: Positions pushed through at once.
    """

    batches: tuple[int, ...]
    few_batches: tuple[int, ...]
    kv: int
    steps: int
    prompts: tuple[int, ...]


FULL = Plan((1, 2, 4, 8, 16, 32, 64), (1, 16, 64), 512, 20, (256, 1024))
TINY = Plan((1, 2), (1,), 64, 3, (64,))


class Waits:
    """Lets a runner wait for each of its parts, so that their times are those of the device's work.

    Attributes:
        on: Whether it does; a step as a whole is then slower than it is served.
    """

    on = False

    def __init__(self, llama: TorchRunner) -> None:
        for name in ("extend", "sample_token", "fast_loop"):
            setattr(llama, name, self._waited(getattr(llama, name), llama.device.type))

    def _waited(self, part: Callable[..., Any], device: str) -> Callable[..., Any]:
        def run(*inputs: Any) -> Any:
            outputs = part(*inputs)
            if self.on:
                clock.wait(device)
            return outputs

        return run


def run(visit: Visit, results: Results) -> None:
    """Measure every precision, the one that is served first."""
    made, plan = artefacts.served(visit), TINY if visit.tiny else FULL
    work, rates = LlamaWork.of(made.repository), step_card.rates(visit)
    steps: list[dict[str, Any]] = []
    prompts: list[dict[str, Any]] = []
    for precision in PRECISIONS[visit.device]:
        llama = load(visit, precision)
        waits = Waits(llama)
        if llama.why_no_kernels:
            results.put(f"without_kernels_{precision}", llama.why_no_kernels)
        bound = Bound.of(work, llama.dtype, rates)
        for batch in plan.few_batches if steps else plan.batches:
            steps.append({"precision": precision, **_step(llama, waits, bound, batch, plan)})
            results.put("steps", steps)
        for positions in plan.prompts:
            prompts.append({"precision": precision, **_prefill(llama, bound, positions)})
            results.put("prefill", prompts)
        del llama, waits
        gc.collect()
        if visit.device == "cuda":
            torch.cuda.empty_cache()


def load(visit: Visit, precision: str) -> TorchRunner:
    """The exported transformers on the device, as FISH_SPEECH_PRECISION has them."""
    device = "cuda:0" if visit.device == "cuda" else "cpu"
    settings = server_settings({**os.environ, "FISH_SPEECH_PRECISION": precision})
    folder = artefacts.served(visit).repository / "fish_llama" / "1"
    llama = load_runner(folder, placement_for(settings, device))
    llama.vocabulary.end_choice = -1  # never: a batch must not shrink while it is measured
    return llama


@dataclass(frozen=True)
class Bound:
    """The least time that memory and arithmetic allow.

    Attributes:
        work: Weights that a frame reads.
        dtype: As `benchmarks.speed.bounds` names it.
        rates: Of this device, in this dtype.
    """

    work: LlamaWork
    dtype: str
    rates: Rates

    @classmethod
    def of(cls, work: LlamaWork, dtype: torch.dtype, rates: Rates) -> "Bound":
        name = {value: key for key, value in DTYPES.items()}[dtype]
        return cls(work, name, replace(rates, multiply={name: rates.multiply[name]}))

    def step_s(self, batch: int, kv: int) -> dict[str, float]:
        """Of a step's two large parts: each reads its weights, and the first one the cache."""
        slow = replace(self.work, fast=0, passes=0)
        fast = replace(self.work, slow=0, kv_values=0)
        return {
            "decode_step": slow.step_s(batch, kv, self.dtype, self.rates),
            "fast_loop": fast.step_s(batch, kv, self.dtype, self.rates),
        }


def _step(llama: TorchRunner, waits: Waits, bound: Bound, batch: int, plan: Plan) -> dict[str, Any]:
    whole, parts = engine.Cell(), engine.Cell()
    for waits.on, cell in ((False, whole), (True, parts)):
        engine.measure(llama, cell, batch, plan.kv, plan.steps)
    bound_s = bound.step_s(batch, plan.kv)
    phase_s = {name: s / len(parts.times_s) for name, s in parts.phases_s.items()}
    return {
        "batch": batch,
        "kv": plan.kv,
        "step_ms": 1e3 * whole.step_s,
        "frames_per_s": batch / whole.step_s,
        "phase_ms": {name: 1e3 * s for name, s in phase_s.items()},
        "bound_ms": 1e3 * sum(bound_s.values()),
        "ratio": whole.step_s / sum(bound_s.values()),
        "phase_ratio": {name: phase_s[name] / s for name, s in bound_s.items()},
    }


@torch.inference_mode()
def _prefill(llama: TorchRunner, bound: Bound, positions: int) -> dict[str, Any]:
    books, device = llama.facts.num_codebooks, llama.device
    tokens = torch.zeros(1, 1 + books, positions, dtype=torch.int64, device=device)
    lengths, past = (torch.tensor([n], device=device) for n in (positions, 0))
    cache = [llama.new_cache(1, max(positions, llama.fixed_positions)) for _ in range(2)]
    inputs = NewPositions(tokens, lengths, past, *cache)
    spent_s = clock.seconds(lambda: llama.extend(inputs), device.type, repeats=5)
    bound_s = bound.work.prefill_s(positions, bound.dtype, bound.rates)
    return {
        "positions": positions,
        "ms": 1e3 * spent_s,
        "bound_ms": 1e3 * bound_s,
        "ratio": spent_s / bound_s,
    }
