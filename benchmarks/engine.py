"""The LLaMA stage in process: frames per second, against upstream and against memory speed.

    python -m benchmarks.engine --checkpoint checkpoints/s1mini --repository build/s1mini-repository

A step decodes one frame for every request of a batch. The bound is the time to read what a step
must read: the weights once (the fast transformer's once per codebook) and every live key and value.
Upstream decodes one request at a time and is measured before and after ours, in the same process.
The last line of stdout is one JSON object.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from engine.engine import Engine
from engine.llama import Llama
from engine.request import Request, Sampling
from engine.settings import Settings, settings_from

PROMPT_POSITIONS = 8


def step_seconds(llama: Llama, batch: int, kv: int, steps: int) -> float:
    """Median time of one frame for `batch` requests that each hold `kv` positions."""
    engine, facts = Engine(llama, batch), llama.facts
    prompt = np.zeros((1 + facts.num_codebooks, PROMPT_POSITIONS), np.int32)
    for seed in range(batch):
        sampling = Sampling(seed=seed, max_new_tokens=steps + batch + 8)
        engine.submit(Request(prompt, sampling, lambda window: None, _raise))
    while engine.waiting or engine.prefilling:
        engine.step()
    engine.cache.reserve(kv + steps + 8)
    for tensor in (engine.cache.keys, engine.cache.values):
        tensor.fill_(0.1)
    engine.cache.lengths[:] = kv
    times = []
    for _ in range(steps + 2):
        begin = time.perf_counter()
        engine.step()
        times.append(time.perf_counter() - begin)
        if len(engine.active) != batch:
            break  # one has ended by itself; the rest would be another batch
    return statistics.median(times[2:] or times)


def _raise(error: Exception) -> None:
    raise error


def bound_seconds(llama: Llama, batch: int, kv: int, rate: float) -> float:
    """Time to read what one step reads, at `rate` bytes per second."""
    facts = llama.facts
    kv_values = 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * kv * batch
    return (llama.weight_bytes_per_step + kv_values * llama.dtype.itemsize) / rate


class Upstream:
    """The genuine model, one request at a time."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype, cache: int | None) -> None:
        from export.checkpoint import load_checkpoint, load_llama

        self.model = load_llama(load_checkpoint(checkpoint), dtype, max_seq_len=cache)
        self.model.setup_caches(1, self.model.config.max_seq_len, dtype=dtype)
        self.dtype = dtype

    @torch.inference_mode()
    def frame_seconds(self, position: int, frames: int) -> float:
        """Median time of `decode_one_token_ar`, its attention backend as upstream sets it."""
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from export import upstream

        decode: Any = upstream.decode_one_token_ar

        column = torch.zeros(1, 1 + self.model.config.num_codebooks, 1, dtype=torch.int)
        column[0, 0] = self.model.tokenizer.semantic_begin_id
        options = [torch.tensor(v, dtype=torch.bfloat16) for v in (0.8, 0.8, 1.1)]
        window = torch.zeros(column.shape[1], 16, dtype=torch.int)
        where = torch.tensor([position])

        def frame() -> None:
            with sdpa_kernel(SDPBackend.MATH):
                decode(self.model, column, where, *options, None, None, window)

        return machine.median_seconds(frame, frames, warmup=1)


def main(
    checkpoint: Annotated[Path, typer.Option(help="For upstream")],
    repository: Annotated[Path, typer.Option(help="The same checkpoint, exported")],
    batches: str = "1,4,15,32",
    kvs: Annotated[str, typer.Option(help="Positions each request holds")] = "256,1024,4096",
    steps: int = 8,
    upstream_frames: int = 3,
    short_cache: Annotated[int, typer.Option(help="Upstream's best honest cache")] = 2304,
) -> None:
    """Measure and print; progress and tables go to stderr."""
    console = Console(stderr=True)
    settings = settings_from()
    llama = Llama(repository / "fish_llama" / "1", Settings(settings.device, settings.dtype, 32))
    upstream = {
        name: Upstream(checkpoint, settings.dtype, cache)
        for name, cache in (("as it is", None), (f"cache {short_cache}", short_cache))
    }
    seconds: dict[str, list[float]] = {name: [] for name in upstream}
    rates = [machine.read_bytes_per_s()]
    table = Table("batch", "KV", "ms per step", "frames/s", "bound ms", "ratio", title="engine")
    found: dict[tuple[int, int], tuple[float, float]] = {}
    for i, batch in enumerate(map(int, batches.split(","))):
        for name, model in upstream.items():
            if i in (0, 2):  # interleaved with ours: the machine is shared
                console.print(f"upstream, {name}")
                seconds[name].append(model.frame_seconds(256, upstream_frames))
        for kv in map(int, kvs.split(",")):
            console.print(f"engine, batch {batch}, KV {kv}")
            step = step_seconds(llama, batch, kv, steps)
            rates.append(machine.read_bytes_per_s())
            bound = bound_seconds(llama, batch, kv, max(rates))
            found[batch, kv] = step, step / bound
            cells = (step * 1e3, batch / step, bound * 1e3, step / bound)
            table.add_row(str(batch), str(kv), *(f"{c:.1f}" for c in cells))
    console.print(table)
    print(json.dumps(_summary(found, seconds, settings, max(rates))))


def _summary(found: dict, seconds: dict, settings: Settings, rate: float) -> dict:
    kv = min(k for _, k in found)
    upstream = {name: 1 / statistics.median(times) for name, times in seconds.items() if times}
    plain = upstream["as it is"]
    summary: dict[str, Any] = {"upstream_frames_per_s": upstream, "kv": kv}
    for batch in (1, 15):
        if (batch, kv) in found:
            step, ratio = found[batch, kv]
            summary[f"b{batch}_frames_per_s"] = batch / step
            summary[f"b{batch}_speedup"] = batch / step / plain
            summary[f"b{batch}_bound_ratio"] = ratio
    precision = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
    return summary | {
        "precision": precision[settings.dtype],
        "read_gb_per_s": rate / 1e9,
        "machine": machine.describe(),
        "commit": machine.commit(),
    }


if __name__ == "__main__":
    typer.run(main)
