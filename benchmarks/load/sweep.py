"""The sweep: closed loops at rising concurrency, then open loops at rising rates."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.answers import summary
from benchmarks.load.breakdown import breakdown
from benchmarks.load.perf_analyzer import Load, PerfAnalyzer, PerfAnalyzerError
from benchmarks.load.profile import read_answers
from benchmarks.server_stats import memory_bytes, snapshot
from launch.server import LaunchError, Server

PATIENCE = 5  # a load that takes so many times the expected seconds is given up
_MIN_PATIENCE_S = 60  # of a load that is expected to take less than 12 s
_SETTLE_S = 0.3  # the LLaMA stage publishes its metrics when it falls idle
_MIN_REQUESTS = 8  # fewer say nothing of percentiles
_MAX_REQUESTS = 400  # answers of 2 s make a profile export of about 0.8 GB, all audio in it

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Attributes:
    models: Front doors.
    concurrencies: Requests in flight in each closed loop, rising.
    shares: Rates of the open loops, as shares of the highest rate that a closed loop reached.
    seconds: Aimed duration of one load; high concurrency needs more requests, hence more time.
    minutes: Limit for the sweep; loads that would not be done by then are reported as left out.
    """

    models: tuple[str, ...] = ("fish_tts_stream", "fish_tts")
    concurrencies: tuple[int, ...] = (1, 2, 4, 8, 16)
    shares: tuple[float, ...] = (0.5, 0.8, 1.1)
    seconds: float = 25.0
    minutes: float = 11.0


@dataclass
class Sweep:
    """Attributes:
    server: Started; it is restarted after a load that failed.
    warm_up: Makes the server ready to be measured; returns requests a second, one at a time.
    analyzer: perf_analyzer's binary.
    rows: perf_analyzer's input file.
    folder: Receives for each load its row (`<load>.row.json`; a load that has one is not measured
        again), its answers, perf_analyzer's own CSV, and, if it failed, the server's log.
    plan: The loads to make.
    console: For progress.
    commands: Command lines of the loads made so far.
    """

    server: Server
    warm_up: Callable[[], float]
    analyzer: PerfAnalyzer
    rows: Path
    folder: Path
    plan: Plan
    console: Console
    commands: list[list[str]] = field(default_factory=list)

    def run(self, requests_per_s: float) -> Iterator[Row]:
        """Make every load, and yield its row as soon as it is known.

        Args:
            requests_per_s: Rate of one request at a time, to begin with.
        """
        give_up = time.monotonic() + 60 * self.plan.minutes
        for model in self.plan.models:
            rate = capacity = requests_per_s
            for concurrency in self.plan.concurrencies:
                load = Load(model, True, concurrency, self._count(rate, 2 * concurrency))
                row = self._row(load, rate, give_up)
                rate = row.get("requests_per_s", rate)
                capacity = max(capacity, rate)
                yield row
            for share in self.plan.shares:
                level = float(f"{share * capacity:.3g}")
                load = Load(model, False, level, self._count(level, 0))
                yield self._row(load, min(level, capacity), give_up)

    def _count(self, rate: float, least: int) -> int:
        return min(max(round(rate * self.plan.seconds), least, _MIN_REQUESTS), _MAX_REQUESTS)

    def _row(self, load: Load, rate: float, give_up: float) -> Row:
        """The row of one load, made now or read from its file; a failed one has an `error`."""
        path = self.folder / f"{load.name}.row.json"
        if path.exists():
            return json.loads(path.read_text())
        row: Row = {**asdict(load), "error": ""}
        expected_s = load.requests / rate
        if time.monotonic() + expected_s > give_up:
            return row | {"error": f"left out: {self.plan.minutes:g} minutes were over"}
        try:
            row |= self._measure(load, max(_MIN_PATIENCE_S, PATIENCE * expected_s))
        except (PerfAnalyzerError, ValueError) as problem:
            self._after_failure(load)
            return row | {"error": str(problem)}
        path.write_text(json.dumps(row))
        return row

    def _measure(self, load: Load, timeout_s: float) -> Row:
        out = self.folder / load.name
        before = snapshot(self.server)
        command = self.analyzer.run(load, self.server.grpc_url, self.rows, out, timeout_s)
        self.commands.append(command)
        time.sleep(_SETTLE_S)
        used = snapshot(self.server) - before
        export = Path(f"{out}.json")
        answers = read_answers(export)
        export.unlink()  # it holds all audio as text, about 1 MB a second
        Path(f"{out}.answers.json").write_text(json.dumps([asdict(a) for a in answers]))
        if len(answers) != load.requests:
            raise ValueError(f"{len(answers)} answers to {load.requests} requests")
        return {
            **summary(answers),
            **breakdown(used),
            "memory_mib": memory_bytes(self.server) / 2**20,
        }

    def _after_failure(self, load: Load) -> None:
        """Keep the server's log and restart the server, since it may hang."""
        self.console.print(f"[red]{load.name} failed[/red]; a fresh server for the next")
        log = self.server.log_path
        with contextlib.suppress(LaunchError):
            self.server.stop()
        if log is not None and log.exists():
            log.rename(self.folder / f"{load.name}.server.log")
        self.server.start()
        self.warm_up()
