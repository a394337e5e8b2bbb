"""The LLaMA stage in process: frames per second, against upstream and against memory speed.

    python -m benchmarks.engine [--quick] [--precision int8] [--checkpoint DIR --repository DIR]

A step decodes one frame for every request of a batch. The bound is the time to read what a step
must read: the weights once (the fast transformer's once per codebook) and every live key and value.
Upstream decodes one request at a time; it is measured in every round, between ours, in the same
process and in the same precision (in `half` where ours is int8, which upstream lacks). Errors are
against float32 (see `benchmarks.speed.precision`). The last line of stdout is one JSON object.
"""

import os
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from benchmarks import machine
from benchmarks.prepared import named_or_endless
from benchmarks.report import console, finish
from benchmarks.speed import precision
from benchmarks.workload import AS_IT_IS, SHORT_CACHE
from engine.lm.load import load_runner
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import Placement, placement_for
from engine.schedule.memory import free_bytes, kv_bytes_per_position
from engine.schedule.request import Request
from engine.schedule.scheduler import Scheduler
from ensemble.contract.options import Sampling
from ensemble.contract.settings import server_settings

if TYPE_CHECKING:
    from benchmarks.speed.upstream import UpstreamLlama

PROMPT_POSITIONS = 8  # a prompt costs nothing here: the cache is filled afterwards
UPSTREAM_POSITION = 256  # where upstream goes on from
WARM_UP_STEPS = 2
COMPARED_BATCHES = (2, 5, 15, 32)  # whose rows are compared with batch 1
COMPARED_POSITIONS = 300

Sizes = tuple[int, int]  # batch, positions that each request holds


@dataclass
class Cell:
    """Steps of one batch size and live length.

    Attributes:
        bound_s: Time to read what a step must read.
        times_s: Wall time of each step, of all rounds.
        phases_s: Seconds in each phase, summed over the steps.
    """

    bound_s: float = 0.0
    times_s: list[float] = field(default_factory=list)
    phases_s: dict[str, float] = field(default_factory=dict)

    @property
    def step_s(self) -> float:
        return statistics.median(self.times_s)

    def described(self, batch: int) -> dict[str, Any]:
        """The cell's figures for the JSON."""
        spread = [1e3 * t for t in (min(self.times_s), self.step_s, max(self.times_s))]
        count = len(self.times_s)
        return {
            "ms_min_median_max": spread,
            "frames_per_s": batch / self.step_s,
            "bound_ratio": self.step_s / self.bound_s,
            "phase_ms": {name: 1e3 * s / count for name, s in self.phases_s.items()},
        }


@torch.inference_mode()
def filled(llama: TorchRunner, batch: int, kv: int, steps: int) -> Scheduler:
    """A scheduler with `batch` requests that each hold `kv` positions, and have `steps` to go."""
    scheduler, facts = Scheduler(llama, batch), llama.facts
    prompt = np.zeros((1 + facts.num_codebooks, PROMPT_POSITIONS), np.int32)
    for seed in range(batch):
        sampling = Sampling(seed=seed, max_new_tokens=steps + batch + 8)
        scheduler.submit(Request(prompt, sampling, lambda window: None, _raise))
    while scheduler.waiting or scheduler.batch.prefilling:
        scheduler.step()
    scheduler.batch.cache.reserve(batch, kv + steps + 8)
    for tensor in (scheduler.batch.cache.keys, scheduler.batch.cache.values):
        tensor.fill_(0.1)
    scheduler.batch.cache.lengths[:] = kv
    return scheduler


@torch.inference_mode()
def measure(llama: TorchRunner, cell: Cell, batch: int, kv: int, steps: int) -> None:
    """Add steps of one frame for `batch` requests that each hold `kv` positions."""
    scheduler = filled(llama, batch, kv, steps)
    for i in range(steps + WARM_UP_STEPS):
        if i == WARM_UP_STEPS:
            scheduler.stepper.seconds.clear()
        begin = time.perf_counter()
        scheduler.step()
        if i >= WARM_UP_STEPS:
            cell.times_s.append(time.perf_counter() - begin)
    for phase, seconds in scheduler.stepper.seconds.items():
        cell.phases_s[phase] = cell.phases_s.get(phase, 0.0) + seconds


def _raise(error: Exception) -> None:
    raise error


def bound_seconds(llama: TorchRunner, batch: int, kv: int, rate: float) -> float:
    """Time to read what one step reads, at `rate` bytes per second."""
    per_position = kv_bytes_per_position(llama.facts, llama.dtype)
    return (llama.weight_bytes_per_step + per_position * kv * batch) / rate


@dataclass
class Rounds:
    """Cells and upstream, measured by turns.

    Attributes:
        llama: Ours.
        upstream: Upstream's, by the name of its cache.
        cells: Ours, by size; a size that memory does not hold is taken out.
        upstream_times_s: Seconds of each frame, by the same names.
        read_rates: Bytes a second that memory gave, measured beside every cell.
    """

    llama: TorchRunner
    upstream: dict[str, "UpstreamLlama"]
    cells: dict[Sizes, Cell]
    upstream_times_s: dict[str, list[float]] = field(default_factory=dict)
    read_rates: list[float] = field(default_factory=list)

    def run(self, steps: int, upstream_frames: int) -> None:
        """Make one round."""
        for name, model in self.upstream.items():
            console.print(f"upstream, {name}")
            # The first frame warms up.
            times = model.frames(model.silent_column, UPSTREAM_POSITION, 1 + upstream_frames)[1:]
            self.upstream_times_s.setdefault(name, []).extend(times)
        for (batch, kv), cell in list(self.cells.items()):
            if not self._fits(batch * kv):
                console.print(f"batch {batch}, KV {kv}: too little memory, left out")
                del self.cells[batch, kv]
                continue
            console.print(f"batch {batch}, KV {kv}")
            measure(self.llama, cell, batch, kv, steps)
            self.read_rates.append(machine.read_bytes_per_s(self.llama.device))

    def _fits(self, positions: int) -> bool:
        each = kv_bytes_per_position(self.llama.facts, self.llama.dtype)
        # Twice, because a cache that grows is copied.
        return 2 * positions * each <= free_bytes(self.llama.device)

    def set_bounds(self) -> None:
        """Give every cell its bound, at the best rate of all rounds."""
        for (batch, kv), cell in self.cells.items():
            cell.bound_s = bound_seconds(self.llama, batch, kv, max(self.read_rates))


def main(
    quick: Annotated[bool, typer.Option(help="The tiny shape, under a minute")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="[default: S1-mini's shape]")] = None,
    repository: Annotated[Path | None, typer.Option(help="The same, exported")] = None,
    precision_name: Annotated[
        str, typer.Option("--precision", help="As FISH_SPEECH_PRECISION")
    ] = "half",
    batches: str = "1,4,15,32",
    kvs: Annotated[str, typer.Option(help="Positions each request holds")] = "256,1024,4096",
    rounds: int = 2,
    steps: Annotated[int, typer.Option(help="In each round")] = 6,
    upstream_frames: Annotated[int, typer.Option(help="In each round; 0: no upstream")] = 3,
    short_cache: Annotated[int, typer.Option(help="Upstream's best honest cache")] = SHORT_CACHE,
    errors: Annotated[bool, typer.Option(help="Against float32, and by batch size")] = True,
) -> None:
    """Measure and print; progress and tables go to stderr."""
    placement = _placement(precision_name)
    checkpoint, repository = named_or_endless(checkpoint, repository, quick, precision_name)
    folder = repository / "fish_llama" / "1"
    found: dict[str, Any] = {"precision": precision_name, "dtype": _short(placement.dtype)}
    if errors:
        found["errors"] = _errors(folder, placement)
    llama = load_runner(folder, placement)
    llama.vocabulary.end_choice = -1  # never: a batch must not shrink while it is measured
    if errors:
        found["rows_unlike_alone"] = _differing_rows(llama)
    upstream: dict[str, UpstreamLlama] = {}
    if upstream_frames:
        from benchmarks.speed.upstream import llamas  # slow, and not for a GPU visit
        from families.fish_s1.checkpoint import load_checkpoint

        upstream = llamas(load_checkpoint(checkpoint), placement.dtype, short_cache)
    sizes = [(int(b), int(kv)) for b in batches.split(",") for kv in kvs.split(",")]
    measured = Rounds(llama, upstream, {size: Cell() for size in sizes})
    measured.read_rates.append(machine.read_bytes_per_s(placement.device))
    for i in range(rounds):
        console.print(f"round {i + 1} of {rounds}")
        measured.run(steps, upstream_frames)
    measured.set_bounds()
    console.print(_table(measured.cells))
    found |= _speed(measured.cells, measured.upstream_times_s)
    finish(found | {"read_gb_per_s": max(measured.read_rates) / 1e9})


def _placement(precision_name: str) -> Placement:
    try:
        environment = {**os.environ, "FISH_SPEECH_PRECISION": precision_name}
        return placement_for(server_settings(environment))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _errors(folder: Path, placement: Placement) -> dict[str, dict[str, float]]:
    console.print("errors against float32")
    exact = precision.teacher_forced(folder, replace(placement, dtype=torch.float32, rounding=""))
    return precision.errors(precision.teacher_forced(folder, placement), exact)


def _differing_rows(llama: TorchRunner) -> dict[str, dict[str, int]]:
    console.print("rows of a batch against the same rows alone")
    return {
        str(batch): precision.differing_rows(llama, batch, COMPARED_POSITIONS)
        for batch in COMPARED_BATCHES
    }


def _table(cells: dict[Sizes, Cell]) -> Table:
    phases = ("decode_step", "sample", "fast_loop")
    table = Table("batch", "KV", "ms per step", "min", "max", *phases, "frames/s", "ratio")
    for (batch, kv), cell in cells.items():
        low, median, high = cell.described(batch)["ms_min_median_max"]
        spent = [1e3 * cell.phases_s.get(p, 0.0) / len(cell.times_s) for p in phases]
        numbers = (median, low, high, *spent, batch / cell.step_s, cell.step_s / cell.bound_s)
        table.add_row(str(batch), str(kv), *(f"{n:.1f}" for n in numbers))
    return table


def _speed(cells: dict[Sizes, Cell], upstream: dict[str, list[float]]) -> dict[str, Any]:
    kv = min(k for _, k in cells)
    rates = {name: 1 / statistics.median(times) for name, times in upstream.items()}
    speed: dict[str, Any] = {
        "upstream_frames_per_s": rates,
        "upstream_spread": {name: [1 / max(t), 1 / min(t)] for name, t in upstream.items()},
        "kv": kv,
        "cells": {f"b{b}_kv{k}": cell.described(b) for (b, k), cell in cells.items()},
    }
    for batch in (1, 15):
        if (batch, kv) in cells:
            cell = cells[batch, kv]
            speed[f"b{batch}_frames_per_s"] = batch / cell.step_s
            speed[f"b{batch}_bound_ratio"] = cell.step_s / cell.bound_s
            if upstream:
                speed[f"b{batch}_speedup"] = batch / cell.step_s / rates[AS_IT_IS]
    return speed


def _short(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
