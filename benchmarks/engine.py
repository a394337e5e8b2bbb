"""The LLaMA stage in process: frames per second, against upstream and against memory speed.

    python -m benchmarks.engine --checkpoint checkpoints/s1mini --repository build/s1mini-repository

A step decodes one frame for every request of a batch. The bound is the time to read what a step
must read: the weights once (the fast transformer's once per codebook) and every live key and value.
Upstream decodes one request at a time; it is measured in every round, between ours, in the same
process and in the same precision (with int8: in `half`, it has no such). Errors are against
float32 (see `benchmarks.precision`). The last line of stdout is one JSON object.
"""

import json
import os
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine, precision
from engine.engine import Engine
from engine.llama import Llama
from engine.memory import free_bytes, kv_bytes_per_position
from engine.request import Request, Sampling
from engine.settings import settings_from

PROMPT_POSITIONS = 8


class Endless(Llama):
    """Speaks on past the end token: a batch must not shrink while it is measured."""

    @property
    def end_choice(self) -> int:
        return -1


@dataclass
class Cell:
    """One batch size and live length.

    Attributes:
        bound_s: Time to read what a step must read.
        times_s: Of steps, of all rounds.
        phases_s: Where they went, summed.
    """

    bound_s: float = 0.0
    times_s: list[float] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)

    @property
    def step_s(self) -> float:
        return statistics.median(self.times_s)

    def described(self, batch: int) -> dict[str, Any]:
        """For the JSON."""
        spread = [1e3 * t for t in (min(self.times_s), self.step_s, max(self.times_s))]
        count = len(self.times_s)
        return {
            "ms_min_median_max": spread,
            "frames_per_s": batch / self.step_s,
            "bound_ratio": self.step_s / self.bound_s,
            "phase_ms": {name: 1e3 * s / count for name, s in self.phases_s.items()},
        }


@torch.inference_mode()
def filled(llama: Llama, batch: int, kv: int, steps: int) -> Engine:
    """An engine with `batch` requests that each hold `kv` positions, and have `steps` to go."""
    engine, facts = Engine(llama, batch), llama.facts
    prompt = np.zeros((1 + facts.num_codebooks, PROMPT_POSITIONS), np.int32)
    for seed in range(batch):
        sampling = Sampling(seed=seed, max_new_tokens=steps + batch + 8)
        engine.submit(Request(prompt, sampling, lambda window: None, _raise))
    while engine.waiting or engine.prefilling:
        engine.step()
    engine.cache.reserve(batch, kv + steps + 8)
    for tensor in (engine.cache.keys, engine.cache.values):
        tensor.fill_(0.1)
    engine.cache.lengths[:] = kv
    return engine


@torch.inference_mode()
def measure(llama: Llama, cell: Cell, batch: int, kv: int, steps: int) -> None:
    """Add steps of one frame for `batch` requests that each hold `kv` positions."""
    engine = filled(llama, batch, kv, steps)
    for i in range(steps + 2):
        if i == 2:  # the first two warm up
            engine.seconds.clear()
        begin = time.perf_counter()
        engine.step()
        if i >= 2:
            cell.times_s.append(time.perf_counter() - begin)
    for phase, seconds in engine.seconds.items():
        cell.phases_s[phase] = cell.phases_s.get(phase, 0.0) + seconds


def _raise(error: Exception) -> None:
    raise error


def bound_seconds(llama: Llama, batch: int, kv: int, rate: float) -> float:
    """Time to read what one step reads, at `rate` bytes per second."""
    per_position = kv_bytes_per_position(llama.facts, llama.dtype)
    return (llama.weight_bytes_per_step + per_position * kv * batch) / rate


class Upstream:
    """The genuine model, one request at a time."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, cache: int | None) -> None:
        from export.checkpoint import load_checkpoint, load_llama

        self.model = load_llama(load_checkpoint(checkpoint), dtype, max_seq_len=cache)
        self.model.setup_caches(1, self.model.config.max_seq_len, dtype=dtype)
        self.times_s: list[float] = []

    @torch.inference_mode()
    def measure(self, position: int, frames: int) -> None:
        """Time `decode_one_token_ar`, its attention backend as upstream sets it."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from export import upstream

        decode: Any = upstream.decode_one_token_ar
        column = torch.zeros(1, 1 + self.model.config.num_codebooks, 1, dtype=torch.int)
        column[0, 0] = self.model.tokenizer.semantic_begin_id
        options = [torch.tensor(v, dtype=torch.bfloat16) for v in (0.8, 0.8, 1.1)]
        window = torch.zeros(column.shape[1], 16, dtype=torch.int)
        for i in range(frames + 1):
            begin = time.perf_counter()
            with sdpa_kernel(SDPBackend.MATH):
                decode(self.model, column, torch.tensor([position]), *options, None, None, window)
            if i:  # the first warms up
                self.times_s.append(time.perf_counter() - begin)


def main(
    checkpoint: Annotated[Path, typer.Option(help="For upstream")],
    repository: Annotated[Path, typer.Option(help="The same checkpoint, exported")],
    precision_name: Annotated[
        str, typer.Option("--precision", help="As FISH_SPEECH_PRECISION")
    ] = "half",
    batches: str = "1,4,15,32",
    kvs: Annotated[str, typer.Option(help="Positions each request holds")] = "256,1024,4096",
    rounds: int = 2,
    steps: Annotated[int, typer.Option(help="In each round")] = 6,
    upstream_frames: Annotated[int, typer.Option(help="In each round; 0: no upstream")] = 3,
    short_cache: Annotated[int, typer.Option(help="Upstream's best honest cache")] = 2304,
    errors: Annotated[bool, typer.Option(help="Against float32, and by batch size")] = True,
) -> None:
    """Measure and print; progress and tables go to stderr."""
    console = Console(stderr=True)
    settings = settings_from({**os.environ, "FISH_SPEECH_PRECISION": precision_name})
    folder = repository / "fish_llama" / "1"
    found: dict[str, Any] = {"precision": precision_name, "dtype": _short(settings.dtype)}
    if errors:
        console.print("errors against float32")
        exact = replace(settings, dtype=torch.float32, int8=False)
        exact_logits = precision.teacher_forced(folder, exact)
        logits = precision.teacher_forced(folder, settings)
        found["errors"] = precision.errors(logits, exact_logits)
    llama = Endless(folder, settings)
    if errors:
        console.print("rows in company")
        found["rows_unlike_alone"] = {
            str(batch): precision.differing_rows(llama, batch, 300) for batch in (2, 5, 15, 32)
        }
    names = {"as it is": None, f"cache {short_cache}": short_cache} if upstream_frames else {}
    upstream = {name: Upstream(checkpoint, settings.dtype, n) for name, n in names.items()}
    cells = {(int(b), int(kv)): Cell() for b in batches.split(",") for kv in kvs.split(",")}
    rates = [machine.read_bytes_per_s(settings.device)]
    for i in range(rounds):
        for name, model in upstream.items():
            console.print(f"round {i + 1}: upstream, {name}")
            model.measure(256, upstream_frames)
        for (batch, kv), cell in list(cells.items()):
            # Twice: a cache that grows is copied.
            each = kv_bytes_per_position(llama.facts, llama.dtype)
            if 2 * batch * kv * each > free_bytes(settings.device):
                console.print(f"batch {batch}, KV {kv}: too little memory, left out")
                del cells[batch, kv]
                continue
            console.print(f"round {i + 1}: batch {batch}, KV {kv}")
            measure(llama, cell, batch, kv, steps)
            rates.append(machine.read_bytes_per_s(settings.device))
    for (batch, kv), cell in cells.items():
        cell.bound_s = bound_seconds(llama, batch, kv, max(rates))
    console.print(_table(cells))
    found |= _speed(cells, {name: model.times_s for name, model in upstream.items()})
    print(json.dumps(found | _surroundings(max(rates))))


def _table(cells: dict[tuple[int, int], Cell]) -> Table:
    phases = ("decode_step", "sample", "fast_loop")
    table = Table("batch", "KV", "ms per step", "min", "max", *phases, "frames/s", "ratio")
    for (batch, kv), cell in cells.items():
        low, median, high = cell.described(batch)["ms_min_median_max"]
        spent = [1e3 * cell.phases_s.get(p, 0.0) / len(cell.times_s) for p in phases]
        numbers = (median, low, high, *spent, batch / cell.step_s, cell.step_s / cell.bound_s)
        table.add_row(str(batch), str(kv), *(f"{n:.1f}" for n in numbers))
    return table


def _speed(cells: dict[tuple[int, int], Cell], upstream: dict[str, list[float]]) -> dict[str, Any]:
    kv = min(k for _, k in cells)
    rates = {name: 1 / statistics.median(times) for name, times in upstream.items()}
    spreads = {name: [1 / max(t), 1 / min(t)] for name, t in upstream.items()}
    speed: dict[str, Any] = {
        "upstream_frames_per_s": rates,
        "upstream_spread": spreads,
        "kv": kv,
        "cells": {f"b{b}_kv{k}": cell.described(b) for (b, k), cell in cells.items()},
    }
    for batch in (1, 15):
        if (batch, kv) not in cells:
            continue
        cell = cells[batch, kv]
        speed[f"b{batch}_frames_per_s"] = batch / cell.step_s
        speed[f"b{batch}_bound_ratio"] = cell.step_s / cell.bound_s
        if upstream:
            speed[f"b{batch}_speedup"] = batch / cell.step_s / rates["as it is"]
    return speed


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]


def _surroundings(rate: float) -> dict[str, Any]:
    return {
        "read_gb_per_s": rate / 1e9,
        "machine": machine.describe(),
        "commit": machine.commit(),
    }


if __name__ == "__main__":
    typer.run(main)
