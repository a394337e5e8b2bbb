"""What the server says of itself, before and after a load: statistics, metrics, CPU by model."""

import json
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import processes
from ensemble.launch import Server

_STAGES = ("fish_prompt", "fish_llama", "fish_decoder")
_SETTLE_S = 0.6  # the LLaMA stage publishes twice a second


@dataclass(frozen=True)
class Snapshot:
    """Counters that only grow; two of them, subtracted, tell of what lay between.

    Attributes:
        counts: Per stage `<stage>.requests`, `.executions`, `.queue_s`, `.compute_s`; every
            `fish_llama_` metric under its name; `cpu.<process>`, seconds.
    """

    counts: Mapping[str, float]

    def since(self, before: "Snapshot") -> dict[str, float]:
        return {name: value - before.counts.get(name, 0) for name, value in self.counts.items()}


def snapshot(server: Server) -> Snapshot:
    """Read everything, once the server has published what it did."""
    time.sleep(_SETTLE_S)
    counts: dict[str, float] = {}
    for stage in _STAGES:
        counts |= {f"{stage}.{name}": v for name, v in _statistics(server, stage).items()}
    counts |= metrics(server)
    counts |= {f"cpu.{name}": s for name, s in processes.cpu_seconds(server.pid).items()}
    return Snapshot(counts)


def metrics(server: Server) -> dict[str, float]:
    """The LLaMA stage's, name with labels -> value."""
    with urllib.request.urlopen(server.metrics_url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith("fish_llama_"))
    return {name: float(value) for name, value in pairs}


def _statistics(server: Server, model: str) -> dict[str, float]:
    url = f"http://{server.http_url}/v2/models/{model}/stats"
    with urllib.request.urlopen(url, timeout=10) as answer:
        said: dict[str, Any] = json.load(answer)["model_stats"][0]
    spent = {name: int(d["ns"]) / 1e9 for name, d in said["inference_stats"].items()}
    return {
        "requests": int(said.get("inference_count", 0)),
        "executions": int(said.get("execution_count", 0)),
        "queue_s": spent["queue"],
        "compute_s": spent["compute_input"] + spent["compute_infer"] + spent["compute_output"],
    }


def breakdown(grown: Mapping[str, float]) -> dict[str, float]:
    """Columns of the report, from the difference of two snapshots.

    Returns:
        Mean batch of the LLaMA stage and the decoder; hits and misses of the voice-prefix cache;
        mean seconds that a request spends before its first audio in each stage; CPU seconds.
    """
    steps = sum(v for name, v in grown.items() if name.startswith("fish_llama_steps_total"))
    windows, decoder = grown["fish_decoder.requests"], grown["fish_decoder.executions"]
    prompts = grown["fish_prompt.requests"]
    firsts = grown.get("fish_llama_first_windows_total", 0)
    columns = {
        "llama_requests": grown["fish_llama.requests"],
        "llama_frames": grown.get("fish_llama_frames_total", 0),
        "llama_batch": _ratio(grown.get("fish_llama_frames_total", 0), steps),
        "decoder_windows": windows,
        "decoder_batch": _ratio(windows, decoder),
        "prefix_hits": grown.get("fish_llama_prefix_hits_total", 0),
        "prefix_misses": grown.get("fish_llama_prefix_misses_total", 0),
        "prompt_s": _ratio(grown["fish_prompt.queue_s"] + grown["fish_prompt.compute_s"], prompts),
        "first_window_s": _ratio(grown.get("fish_llama_first_window_seconds_total", 0), firsts),
        "decoder_queue_s": _ratio(grown["fish_decoder.queue_s"], windows),
        "decoder_compute_s": _ratio(grown["fish_decoder.compute_s"], windows),
    }
    cpu = {name.removeprefix("cpu."): s for name, s in grown.items() if name.startswith("cpu.")}
    named = ("fish_llama", "fish_decoder", "tritonserver")
    return columns | {
        **{f"cpu_s_{name}": cpu.pop(name, 0.0) for name in named},
        "cpu_s_others": sum(cpu.values()),
    }


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0
