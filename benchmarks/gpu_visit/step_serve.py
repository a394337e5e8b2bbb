"""The real tritonserver on the device: the brief's workload, and streams side by side."""

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import answers, first_audio
from benchmarks.gpu_visit import artefacts
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.load.breakdown import breakdown
from benchmarks.load.decoder_batches import WARM_UP_FRAMES, Callers
from benchmarks.measured import medians
from benchmarks.server_stats import Snapshot, snapshot
from benchmarks.speed.bench import Bench, stages
from launch.server import Server
from voicereel import Client

DEADLINE_S = 300  # of a start, and of a request; the step's own limit comes first
_BATCHED = ("fish_llama", "fish_decoder", "fish_encoder")
_STREAMED = (  # of a run's summary: seconds, or a count
    "audio_s", "wall_s", "rtf", "ttfa_s_p50", "ttfa_s_p95", "latency_s_p95", "gap_s_p95",
    "interrupted", "underruns", "underrun_s",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Attributes:
    runs: Passes over the workload, after those that warm up.
    callers: Streams at a time, one load for each number.
    frames: Of each stream.
    firsts: Requests alone, whose way to the first audio is looked at.
    """

    runs: int
    callers: tuple[int, ...]
    frames: int
    firsts: int


FULL, TINY = Plan(5, (1, 4, 16, 32, 64), 129, 20), Plan(1, (1, 2), 16, 2)


def run(visit: Visit, results: Results) -> None:
    """Serve by profile `gpu` and load the server."""
    repository, plan = artefacts.served(visit).repository, TINY if visit.tiny else FULL
    begin, log = time.perf_counter(), visit.out / "server.log"
    with (
        Server(repository, "gpu", deadline_s=DEADLINE_S, log_path=log) as server,
        Client(server.grpc_url, timeout_s=DEADLINE_S) as client,
    ):
        results.put("ready_s", time.perf_counter() - begin)
        bench = Bench(server, client)
        if not visit.tiny:  # every shape once: kernels are compiled, steps recorded
            bench.run(bench.voices)
        results.put("workload", workload(bench, plan.runs))
        results.put("single_stream", _median([bench.single_stream() for _ in range(plan.runs)]))
        voice = bench.voices["alice"]
        results.put("first_audio", first_audio.measure(server, client, plan.firsts, voice))
        results.put("with_encoding_s", bench.run().wall_s)
        rows: list[dict[str, Any]] = []
        for callers in plan.callers:
            Callers(callers, 1, WARM_UP_FRAMES, WARM_UP_FRAMES, 0.0).run(client)
            load = Callers(callers, 1, plan.frames, plan.frames, 0.0)
            rows.append(streams(server, client, load))
            results.put("streams", rows)
        if visit.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            results.put("gpu_memory_gb", (total - free) / 1e9)


def workload(bench: Bench, runs: int) -> dict[str, Any]:
    """Passes over the brief's workload, its voices encoded before."""
    done = [bench.run(bench.voices) for _ in range(runs)]
    return {
        **medians(done),
        "wall_s_of_runs": [run.wall_s for run in done],
        "stages_s": stages(done),
        "batches": _batches(done[-1].used),
    }


def streams(server: Server, client: Client, load: Callers) -> dict[str, Any]:
    """What the callers of one load heard, and what the server did."""
    before = snapshot(server)
    heard = answers.summary(load.run(client))
    used = snapshot(server) - before
    mean = breakdown(used)
    return {
        "streams": load.count,
        "audio_s_per_s": heard["audio_s"] / heard["wall_s"],
        **{name: heard[name] for name in _STREAMED},
        "llama_batch": mean["llama_batch"],
        "decoder_batch": mean["decoder_batch"],
        "batches": _batches(used),
    }


def _batches(used: Snapshot) -> dict[str, dict[int, int]]:
    """By model, how many batches of each size Triton has made."""
    return {name: dict(sorted(used.models[name].batches.items())) for name in _BATCHED}


def _median(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}
