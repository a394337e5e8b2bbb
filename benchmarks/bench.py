"""`make bench`: the brief's workload through the real server, against genuine upstream.

15 segments of two speakers with references of 10 s, 30 s of audio, in flight together. Every run of
ours follows a measurement of upstream on a part of the same workload, in the same process. The
last line of stdout is one JSON object; tables and progress go to stderr.

    python -m benchmarks.bench [--quick] [--precision half|int8|full] [--runs 3] [--record]
"""

import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine, workload
from benchmarks.bounds import LlamaShape, Rates
from benchmarks.server_stats import Snapshot, snapshot
from benchmarks.upstream import AS_IT_IS, SHORT_CACHE_NAME, Upstream
from ensemble.launch import Server
from ensemble.prepared import ROOT, prepared
from ensemble.prompt import PromptBuilder, Reference
from voicereel import Client, VoiceFeatures, synthesize_script

HISTORY = ROOT / "benchmarks" / "history.jsonl"
TARGET_S = 8.0
PHASES = ("prefill", "decode_step", "fast_loop", "sample")  # of fish_llama, by its metrics
UPSTREAM_FRAMES = 2  # of each measurement, after the first

console = Console(stderr=True)


@dataclass(frozen=True)
class Run:
    """One pass over the workload.

    Attributes:
        wall_s: From the script to the whole waveform.
        audio_s: How much came out.
        client_cpu_s: Processor time of this process.
        used: What the server did meanwhile.
    """

    wall_s: float
    audio_s: float
    client_cpu_s: float
    used: Snapshot


class Bench:
    """A server under the workload."""

    def __init__(self, server: Server, client: Client) -> None:
        self.server, self.client = server, client
        self.voices = workload.encoded(client)

    def run(self, voices: dict[str, VoiceFeatures] | None = None) -> Run:
        """Speak the script; without voices, encode fresh recordings inside the clock."""
        before, cpu, begin = snapshot(self.server), time.process_time(), time.perf_counter()
        if voices is None:
            voices = workload.encoded(self.client, variant=1)
        script = workload.script()
        audio, _ = synthesize_script(
            self.client, script, voices,
            max_workers=len(script), max_new_tokens=workload.FRAMES, seed=1,
        )  # fmt: skip
        wall_s, cpu_s = time.perf_counter() - begin, time.process_time() - cpu
        return Run(wall_s, audio.duration_s, cpu_s, snapshot(self.server) - before)

    def single_stream(self) -> dict[str, float]:
        """One streamed segment, nobody else there."""
        begin, ttfa_s, samples, rate = time.perf_counter(), 0.0, 0, 1
        text, voice = workload.TEXTS[0], self.voices["alice"]
        for chunk in self.client.stream(text, voice, max_new_tokens=workload.FRAMES, seed=1):
            ttfa_s = ttfa_s or time.perf_counter() - begin
            samples, rate = samples + len(chunk.waveform), chunk.sample_rate_hz
        return {"ttfa_s": ttfa_s, "rtf": (time.perf_counter() - begin) * rate / samples}


def main(
    quick: Annotated[bool, typer.Option(help="The tiny shape, under a minute")] = False,
    precision: Annotated[str, typer.Option(help="FISH_SPEECH_PRECISION")] = "half",
    runs: Annotated[int, typer.Option(help="Passes over the workload")] = 3,
    record: Annotated[bool, typer.Option(help="Add the result to history.jsonl")] = False,
) -> None:
    """Measure and print."""
    preset = "tiny" if quick else "s1mini"
    checkpoint, repository = prepared(
        preset, f"{preset}-endless", "--endless", int8=precision == "int8"
    )
    environment = {"FISH_SPEECH_PRECISION": precision, "VOICEREEL_BATCH_SIZE": "16"}
    with (
        Server(repository, environment=environment, deadline_s=600) as server,
        Client(server.grpc_url, timeout_s=600) as client,
    ):
        console.print("warming up")
        bench = Bench(server, client)
        bench.run(bench.voices)
        rates = Rates.measured()
        console.print("loading upstream")
        upstream = Upstream(checkpoint, torch.bfloat16)
        prompt = _prompt(repository, bench.voices["alice"])
        done = []
        for number in range(runs):
            console.print(f"run {number + 1} of {runs}: upstream")
            upstream.measure(prompt, UPSTREAM_FRAMES)
            done.append(bench.run(bench.voices))
            console.print(f"run {number + 1} of {runs}: ours, {done[-1].wall_s:.2f} s")
        streams = [bench.single_stream() for _ in range(3)]
        with_encoding = bench.run()
    result: dict[str, Any] = {"workload": "brief-15x43" + "-tiny" * quick, "precision": precision}
    result |= _speed(done, with_encoding, streams) | _against(upstream, done)
    result["bound_s"] = _bound(upstream, checkpoint, prompt.shape[2], precision, rates)
    result["bound_ratio"] = result["wall_s"] / result["bound_s"]
    result |= {"machine": rates.described(), "commit": machine.commit()}
    _show(result, done)
    line = json.dumps(result)
    if record:
        with HISTORY.open("a", encoding="utf-8") as history:
            history.write(line + "\n")
    print(line)


def _prompt(repository: Path, voice: VoiceFeatures) -> torch.Tensor:
    """The first segment's, which equals upstream's own."""
    builder = PromptBuilder(repository / "fish_prompt" / "1")
    prompt, _ = builder.build(workload.TEXTS[0], [Reference(voice.texts[0], voice.codes)])
    return torch.from_numpy(prompt)[None]


def _speed(done: list[Run], with_encoding: Run, streams: list[dict[str, float]]) -> dict[str, Any]:
    walls = [run.wall_s for run in done]
    audio_s, wall_s = done[0].audio_s, statistics.median(walls)
    return {
        "audio_s": audio_s,
        "wall_s": wall_s,
        "wall_s_of_runs": walls,
        "wall_with_encoding_s": with_encoding.wall_s,
        "encode_s": with_encoding.used.models["fish_encoder"].compute_s,
        "rtf": wall_s / audio_s,
        "single_stream": {k: statistics.median(s[k] for s in streams) for k in streams[0]},
        "stages": stages(done),
    }


def _against(upstream: Upstream, done: list[Run]) -> dict[str, Any]:
    audio_s, segments = done[0].audio_s, len(workload.TEXTS)
    wall_s = statistics.median(run.wall_s for run in done)
    rtf = {n: p.segment_s() * segments / audio_s for n, p in upstream.pieces.items()}
    return {
        "upstream_rtf": rtf[AS_IT_IS],
        "upstream_short_cache_rtf": rtf[SHORT_CACHE_NAME],
        "upstream_pieces_s": {
            name: {what: statistics.median(times) for what, times in asdict(pieces).items()}
            for name, pieces in upstream.pieces.items()
        },
        "speedup": rtf[AS_IT_IS] * audio_s / wall_s,
    }


def stages(done: list[Run]) -> dict[str, float]:
    """Seconds of work, medians over the runs; stages overlap, so they may add up to more."""

    def median(of: Any) -> float:
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
    upstream: Upstream, checkpoint: Path, positions: int, precision: str, rates: Rates
) -> float:
    """Every stage at the machine's best rate, one after the other; voices prefilled once."""
    shape, segments = LlamaShape.of(checkpoint), len(workload.TEXTS)
    kind = {"half": "bf16", "full": "fp32"}.get(precision, precision)
    llama = workload.FRAMES * shape.step_s(segments, positions, kind, rates)
    prefill = shape.prefill_s(len(workload.SPEAKERS) * positions, kind, rates)
    codec = segments * workload.FRAMES * upstream.codec_flops()
    return llama + prefill + codec / rates.best_multiply(kind)


def _show(result: dict[str, Any], done: list[Run]) -> None:
    table = Table("what", "s", title="the workload", title_justify="left")
    for name in ("audio_s", "wall_s", "wall_with_encoding_s", "encode_s"):
        table.add_row(name, f"{result[name]:.2f}")
    for name, seconds in result["stages"].items():
        table.add_row(f"  {name}", f"{seconds:.2f}")
    console.print(table)
    used = done[-1].used
    table = Table("process", "CPU s", "peak MB", "mean batch", title="server", title_justify="left")
    for role, cpu_s in sorted(used.cpu_s.items(), key=lambda item: -item[1]):
        batch = used.models[role].mean_batch
        peak = used.peak_bytes.get(role, 0) / 1e6
        table.add_row(role, f"{cpu_s:.2f}", f"{peak:.0f}", f"{batch:.1f}" if batch else "")
    console.print(table)
    table = Table("upstream", "prefill", "frame", "decode", "encode", "RTF", title_justify="left")
    for name, found in result["upstream_pieces_s"].items():
        rtf = result["upstream_rtf" if name == AS_IT_IS else "upstream_short_cache_rtf"]
        cells = [f"{found[k]:.2f}" for k in ("prefill", "frame", "decode", "encode")]
        table.add_row(name, *cells, f"{rtf:.1f}")
    console.print(table)
    spread = np.ptp(result["wall_s_of_runs"])
    verdict = "met" if result["wall_s"] <= TARGET_S else "missed"
    console.print(
        f"RTF {result['rtf']:.3f} (runs within {spread:.2f} s), {result['speedup']:.0f} x "
        f"upstream; {TARGET_S:.0f} s {verdict}; bound {result['bound_s']:.2f} s, "
        f"{result['bound_ratio']:.1f} from it"
    )


if __name__ == "__main__":
    typer.run(main)
