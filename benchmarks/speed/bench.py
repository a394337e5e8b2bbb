"""`make bench`: the brief's workload through the real server, against genuine upstream.

15 segments of two speakers with references of 10 s, 30 s of audio, in flight together. Every run of
ours follows a measurement of upstream on a part of the same workload, in the same process. The
last line of stdout is one JSON object; tables and progress go to stderr.

    python -m benchmarks.bench [--quick] [--precision half|int8|full] [--runs 3] [--record]
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table

from benchmarks import workload
from benchmarks.answers import heard
from benchmarks.measured import Run, medians, timed
from benchmarks.prepared import endless, served
from benchmarks.report import console, finish
from benchmarks.server_stats import snapshot
from benchmarks.speed.bounds import LlamaWork, Rates
from benchmarks.workload import AS_IT_IS, short_cache_name
from ensemble.contract.voice import Reference
from families.fish_s1.prompt import PromptBuilder
from launch.server import Server
from voicereel import Audio, Client, VoiceFeatures, synthesize_script

if TYPE_CHECKING:
    from benchmarks.speed.upstream import Upstream

TARGET_S = 8.0  # the brief's, for the 30 s
SLOTS = "16"  # all 15 segments decode together
PHASES = ("prefill", "decode_step", "fast_loop", "sample")  # of fish_llama, by its metrics
UPSTREAM_FRAMES = 2  # decoded in each measurement of upstream, after the first frame
STREAMS = 3  # runs of the single stream; the median counts


class Bench:
    """A server under the workload.

    Attributes:
        server: Started.
        client: A client of it.
        voices: Both speakers' features.
    """

    def __init__(self, server: Server, client: Client) -> None:
        self.server, self.client = server, client
        self.voices = workload.encoded(client)

    def run(self, voices: dict[str, VoiceFeatures] | None = None) -> Run:
        """Speak the script; without voices, encode fresh recordings inside the clock."""

        def speak() -> Audio:
            script = workload.script()
            return synthesize_script(
                self.client, script, voices or workload.encoded(self.client, variant=1),
                max_workers=len(script), max_new_tokens=workload.FRAMES, seed=1,
            ).audio  # fmt: skip

        before = snapshot(self.server)
        run = timed(speak)
        return replace(run, used=snapshot(self.server) - before)

    def single_stream(self) -> dict[str, float]:
        """Stream one segment while the server has nothing else to do."""
        text, voice = workload.TEXTS[0], self.voices["alice"]
        answer = heard(
            lambda: self.client.stream(text, voice, max_new_tokens=workload.FRAMES, seed=1)
        )
        return {"ttfa_s": answer.ttfa_s, "rtf": answer.rtf}


def main(
    quick: Annotated[bool, typer.Option(help="The tiny shape, under a minute")] = False,
    precision: Annotated[str, typer.Option(help="FISH_SPEECH_PRECISION")] = "half",
    runs: Annotated[int, typer.Option(help="Passes over the workload")] = 3,
    record: Annotated[bool, typer.Option(help="Add the result to history.jsonl")] = False,
) -> None:
    """Measure and print."""
    from benchmarks.speed.upstream import Upstream  # slow to import, and not for a GPU visit

    checkpoint, repository = endless(quick, precision)
    environment = {"FISH_SPEECH_PRECISION": precision, "VOICEREEL_BATCH_SIZE": SLOTS}
    with served(repository, environment) as (server, client):
        console.print("warming up")
        bench = Bench(server, client)
        bench.run(bench.voices)
        rates = Rates.measured()
        console.print("loading upstream")
        upstream = Upstream(checkpoint, torch.bfloat16)
        prompt = _prompt(repository, bench.voices["alice"])
        done = _in_turns(bench, upstream, prompt, runs)
        streams = [bench.single_stream() for _ in range(STREAMS)]
        with_encoding = bench.run()
    result: dict[str, Any] = {"workload": "brief-15x43" + "-tiny" * quick, "precision": precision}
    result |= _speed(done, with_encoding, streams) | _against(upstream, done)
    result["bound_s"] = _bound(upstream, repository, prompt.shape[2], precision, rates)
    result["bound_ratio"] = result["wall_s"] / result["bound_s"]
    _show(result, done)
    finish(result | {"machine": rates.described()}, record)


def _in_turns(bench: Bench, upstream: "Upstream", prompt: torch.Tensor, runs: int) -> list[Run]:
    """Passes over the workload, each after a measurement of upstream."""
    done = []
    for number in range(runs):
        console.print(f"run {number + 1} of {runs}: upstream")
        upstream.measure(prompt, UPSTREAM_FRAMES)
        done.append(bench.run(bench.voices))
        console.print(f"run {number + 1} of {runs}: ours, {done[-1].wall_s:.2f} s")
    return done


def _prompt(repository: Path, voice: VoiceFeatures) -> torch.Tensor:
    """The first segment's prompt, which equals upstream's own."""
    builder = PromptBuilder(repository / "fish_prompt" / "1")
    prompt, _ = builder.build(workload.TEXTS[0], [Reference(voice.texts[0], voice.codes)])
    return torch.from_numpy(prompt)[None]


def _speed(done: list[Run], with_encoding: Run, streams: list[dict[str, float]]) -> dict[str, Any]:
    return medians(done) | {
        "wall_s_of_runs": [run.wall_s for run in done],
        "wall_with_encoding_s": with_encoding.wall_s,
        "encode_s": with_encoding.used.models["fish_encoder"].compute_s,
        "single_stream": {k: statistics.median(s[k] for s in streams) for k in streams[0]},
        "stages": stages(done),
    }


def _against(upstream: "Upstream", done: list[Run]) -> dict[str, Any]:
    ours, segments = medians(done), len(workload.TEXTS)
    rtf = {n: p.segment_s() * segments / ours["audio_s"] for n, p in upstream.pieces.items()}
    return {
        "upstream_rtf": rtf[AS_IT_IS],
        "upstream_short_cache_rtf": rtf[short_cache_name()],
        "upstream_pieces_s": {
            name: {what: statistics.median(times) for what, times in asdict(pieces).items()}
            for name, pieces in upstream.pieces.items()
        },
        "speedup": rtf[AS_IT_IS] / ours["rtf"],
    }


def stages(done: list[Run]) -> dict[str, float]:
    """Seconds of work, medians over the runs; stages overlap, so they may add up to more."""

    def median(of: Callable[[Run], float]) -> float:
        return statistics.median(of(run) for run in done)

    name = 'fish_llama_seconds_total{phase="%s"}'
    return {
        **{phase: median(lambda r, p=phase: r.used.metrics[name % p]) for phase in PHASES},
        "codec": median(lambda r: r.used.models["fish_decoder"].compute_s),
        "server_cpu": median(lambda r: r.used.cpu_s["tritonserver"]),
        "client_cpu": median(lambda r: r.client_cpu_s),
        "all_cpu": median(lambda r: sum(r.used.cpu_s.values()) + r.client_cpu_s),
    }


def _bound(
    upstream: "Upstream", repository: Path, positions: int, precision: str, rates: Rates
) -> float:
    """Every stage at the machine's best rate, one after the other; each voice prefilled once."""
    work, segments = LlamaWork.of(repository), len(workload.TEXTS)
    kind = {"half": "bf16", "full": "fp32"}.get(precision, precision)
    llama = workload.FRAMES * work.step_s(segments, positions, kind, rates)
    prefill = work.prefill_s(len(workload.SPEAKERS) * positions, kind, rates)
    codec = segments * workload.FRAMES * upstream.codec_flops()
    return llama + prefill + codec / rates.best_multiply(kind)


def _show(result: dict[str, Any], done: list[Run]) -> None:
    for table in (_workload_table(result), _server_table(done[-1]), _upstream_table(result)):
        console.print(table)
    spread = np.ptp(result["wall_s_of_runs"])
    verdict = "met" if result["wall_s"] <= TARGET_S else "missed"
    console.print(
        f"RTF {result['rtf']:.3f} (runs within {spread:.2f} s), {result['speedup']:.0f} x "
        f"upstream; {TARGET_S:.0f} s {verdict}; bound {result['bound_s']:.2f} s, "
        f"{result['bound_ratio']:.1f} from it"
    )


def _workload_table(result: dict[str, Any]) -> Table:
    table = Table("what", "s", title="the workload", title_justify="left")
    for name in ("audio_s", "wall_s", "wall_with_encoding_s", "encode_s"):
        table.add_row(name, f"{result[name]:.2f}")
    for name, seconds in result["stages"].items():
        table.add_row(f"  {name}", f"{seconds:.2f}")
    return table


def _server_table(run: Run) -> Table:
    table = Table("process", "CPU s", "peak MB", "mean batch", title="server", title_justify="left")
    for role, cpu_s in sorted(run.used.cpu_s.items(), key=lambda item: -item[1]):
        batch = run.used.models[role].mean_batch
        peak = run.used.peak_bytes.get(role, 0) / 1e6
        table.add_row(role, f"{cpu_s:.2f}", f"{peak:.0f}", f"{batch:.1f}" if batch else "")
    return table


def _upstream_table(result: dict[str, Any]) -> Table:
    table = Table("upstream", "prefill", "frame", "decode", "encode", "RTF", title_justify="left")
    for name, found in result["upstream_pieces_s"].items():
        rtf = result["upstream_rtf" if name == AS_IT_IS else "upstream_short_cache_rtf"]
        cells = [f"{found[k]:.2f}" for k in ("prefill", "frame", "decode", "encode")]
        table.add_row(name, *cells, f"{rtf:.1f}")
    return table
