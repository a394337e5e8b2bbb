"""`make load`: the real perf_analyzer against a real server, from one caller to many.

Writes a report with plots. The last line on stdout is one JSON object; all else goes to stderr.
"""

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import machine
from benchmarks.answers import GAPS_MS, gapless
from benchmarks.demo import run as demo
from benchmarks.load import perf_analyzer
from benchmarks.load import report as load_report
from benchmarks.load.rows import write_rows
from benchmarks.load.sweep import Plan, Row, Sweep
from benchmarks.prepared import ROOT, prepared
from benchmarks.report import RESULTS, console
from ensemble.contract.facts import Facts
from launch.server import LaunchError, Server
from voicereel import Client, VoiceFeatures, VoiceReelError

QUICK = Plan(concurrencies=(1, 4), shares=(0.8,), seconds=2, minutes=1)

_FAILURES = (
    LaunchError, VoiceReelError, perf_analyzer.PerfAnalyzerError, OSError,
    subprocess.CalledProcessError,
)  # fmt: skip


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: a tiny one.")] = None,
    out: Annotated[Path, typer.Option(help="For raw results.")] = ROOT / "out" / "load",
    report: Annotated[Path | None, typer.Option(help="Folder for report.md.")] = None,
    concurrencies: Annotated[str, typer.Option(help="Closed loops.")] = "",
    shares: Annotated[str, typer.Option(help="Open loops: shares of the capacity.")] = "",
    max_frames: Annotated[int, typer.Option(help="Longest answer, 2048 samples each.")] = 43,
    seconds: Annotated[float, typer.Option(help="Aim for one load.")] = Plan.seconds,
    minutes: Annotated[float, typer.Option(help="Limit for all loads.")] = Plan.minutes,
    quick: Annotated[bool, typer.Option(help="Six small loads, within a minute.")] = False,
    resume: Annotated[bool, typer.Option(help="Keep the loads that OUT has already.")] = False,
) -> None:
    """Sweep concurrency and rate on both front doors, and write the report."""
    plan = Plan(seconds=seconds, minutes=minutes) if not quick else QUICK
    if concurrencies:
        plan = dataclasses.replace(plan, concurrencies=tuple(map(int, concurrencies.split(","))))
    if shares:
        plan = dataclasses.replace(plan, shares=tuple(map(float, shares.split(","))))
    report = report or (out if quick else RESULTS)
    try:
        served = repository or prepared("tiny", "tiny")[1]
        result = LoadTest(served, out, report, plan, max_frames, resume).run()
    except _FAILURES as error:
        console.print(f"[red]load:[/red] {error}", highlight=False)
        raise typer.Exit(1) from None
    print(json.dumps(result))
    if result["failed"]:
        raise typer.Exit(1)


@dataclass(frozen=True)
class LoadTest:
    """Attributes:
    repository: Served.
    out: Folder for raw results.
    report: Folder for report.md.
    plan: Loads to make.
    max_frames: Longest answer, 2048 samples each.
    resume: Whether to keep the loads that `out` has already.
    """

    repository: Path
    out: Path
    report: Path
    plan: Plan
    max_frames: int
    resume: bool

    def run(self) -> dict[str, Any]:
        """Make all loads, write rows and report; returns the last line on stdout."""
        commit = machine.commit()
        key = self._key(commit)
        begin_in(self.out, key | dataclasses.asdict(self.plan), self.resume)
        begin, table = time.monotonic(), []
        with console.status("serving"):
            server = Server(self.repository, log_path=self.out / "server.log")
            server.start()
        try:
            voices = {**encoded_voices(server), "own": None}
            count = write_rows(self.out / "rows.json", voices, self.max_frames)
            sweep = self._sweep(server, voices)
            for row in sweep.run(sweep.warm_up()):
                table.append(row)
                console.print(told(row), highlight=False, soft_wrap=True)
        finally:
            server.stop()
        facts = key | {
            "commit": key["commit"] if self.resume else commit,
            "command": _command(),
            "perf_analyzer": [load_report.portable(c) for c in _first_and_last(sweep.commands)],
            "machine": machine.describe(),
            "date": time.strftime("%Y-%m-%d"),
            "texts": count,
            "voices": len(voices),
            "minutes": (time.monotonic() - begin) / 60,
        }
        load_report.write(self.report, facts, table)
        return summary(table, facts, self.report)

    def _key(self, commit: str) -> dict[str, Any]:
        """What results must share to be of one sweep."""
        facts = Facts.load(self.repository / "fish_llama" / "1")
        return {
            # The report of a sweep that is to be resumed is itself a change in the working tree.
            "commit": commit.rstrip("+"),
            "checkpoint_id": facts.checkpoint_id,
            "layers": facts.num_layers,
            "codebooks": facts.num_codebooks,
            "max_frames": self.max_frames,
        }

    def _sweep(self, server: Server, voices: dict[str, VoiceFeatures | None]) -> Sweep:
        warm = functools.partial(warm_up, server, voices, self.max_frames)
        analyzer = perf_analyzer.find(self.out / "libraries")
        return Sweep(server, warm, analyzer, self.out / "rows.json", self.out, self.plan, console)


def _command() -> str:
    """The command line, with the variables before it that say how models are served."""
    names = ("FISH_SPEECH_PRECISION", "FISH_SPEECH_COMPILE", "VOICEREEL_BATCH_SIZE",
             "VOICEREEL_REAL_TIME")  # fmt: skip
    variables = "".join(f"{name}={os.environ[name]} " for name in names if name in os.environ)
    return variables + "python -m benchmarks.load " + " ".join(sys.argv[1:])


def _first_and_last(commands: list[list[str]]) -> list[list[str]]:
    return [commands[0], commands[-1]] if commands else []


def begin_in(out: Path, key: dict[str, Any], resume: bool) -> None:
    """Make the folder, and remove rows of another commit, checkpoint or plan from it."""
    out.mkdir(parents=True, exist_ok=True)
    path, wanted = out / "key.json", json.dumps(key)
    if not (resume and path.exists() and path.read_text() == wanted):
        for row in out.glob("*.row.json"):
            row.unlink()
    path.write_text(wanted)


def encoded_voices(server: Server) -> dict[str, VoiceFeatures]:
    """The features of the demo's two speakers."""
    with Client(server.grpc_url) as client:
        return demo.encoded(client)


def warm_up(server: Server, voices: dict[str, VoiceFeatures | None], max_frames: int) -> float:
    """Make the first calls, which are slow; returns requests a second, one at a time."""
    with Client(server.grpc_url) as client, console.status("warming up"):
        for _ in range(2):
            begin = time.monotonic()
            for voice in voices.values():
                client.synthesize(demo.SCRIPT[0][1], voice, seed=0, max_new_tokens=max_frames)
        return len(voices) / (time.monotonic() - begin)


def told(row: Row) -> str:
    """A row as one line of progress."""
    kind = "closed" if row["closed"] else "open"
    if row["error"]:
        return f"{row['model']} {kind} {row['level']:g}: [red]{row['error']}[/red]"
    return (
        f"{row['model']} {kind} {row['level']:g}: {row['answers']} answers, RTF {row['rtf']:.2f}, "
        f"TTFA {row['ttfa_s_p50']:.2f} / {row['ttfa_s_p95']:.2f} s, "
        f"batch {row['llama_batch']:.1f}, underrun {row['underrun_s']:.1f} s, "
        f"{row[gapless(GAPS_MS[1])]:.0%} without a gap over {GAPS_MS[1]} ms"
    )


def summary(table: list[Row], facts: dict[str, Any], report: Path) -> dict[str, Any]:
    """The last line on stdout."""
    done = [row for row in table if not row["error"]]
    left_out = [row for row in table if row["error"].startswith("left out")]
    kept = ("model", "closed", "level", "answers", "rtf", "requests_per_s", "ttfa_s_p50",
            "ttfa_s_p95", "llama_batch", "decoder_batch", "interrupted", "underruns", "underrun_s",
            *map(gapless, GAPS_MS))  # fmt: skip
    return {
        "loads": [{name: row[name] for name in kept} for row in done],
        "answers": sum(row["answers"] for row in done),
        "failed": len(table) - len(done) - len(left_out),
        "left_out": len(left_out),
        "best_rtf": min((row["rtf"] for row in done), default=None),
        "prefix_hits": sum(row["prefix_hits"] for row in done),
        "report": str(report / "report.md"),
        **{name: facts[name] for name in ("machine", "commit", "checkpoint_id", "minutes")},
    }


if __name__ == "__main__":
    typer.run(main)
