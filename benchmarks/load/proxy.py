"""What the proxy adds, and what a flood does behind it.

    python -m benchmarks.load.proxy [--repository DIR] [--flood 30 --rate 25]

Both ways ask the same server and take turns. The proxy runs in a process of its own. Without
--repository tiny random weights speak.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from benchmarks.prepared import ROOT, endless, served
from benchmarks.report import console
from launch.server import Server
from voicereel import Client, Overloaded
from voicereel.project import project_environment

TEXT = "Good morning, Bob. Did you sleep well?"
CHUNKS = 60
STREAM: dict[str, Any] = {
    "seed": 7, "max_new_tokens": CHUNKS, "first_chunk_frames": 1, "max_chunk_frames": 1
}  # fmt: skip


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: random weights.")] = None,
    tries: Annotated[int, typer.Option(min=2, help="Of each figure and way.")] = 200,
    flood: Annotated[float, typer.Option(help="Seconds of a flood; 0: none.")] = 0,
    rate: Annotated[float, typer.Option(help="Requests a second of the flood.")] = 25,
) -> None:
    """Measure."""
    with (
        served(repository or endless(quick=True)[1]) as (server, direct),
        proxy(server) as url,
        Client(url) as through,
    ):
        table = Table("ms", "direct", "through the proxy", "added")
        for name, figure, count in (
            ("a unary answer", _unary, tries), ("a chunk of a stream", _chunk, tries // 20)
        ):  # fmt: skip
            ways = _in_turns(figure, (direct, through), max(3, count))
            table.add_row(name, *(f"{1000 * s:.2f}" for s in (*ways, ways[1] - ways[0])))
        console.print(table)
        if flood:
            _flood(through, flood, rate)


@contextmanager
def proxy(server: Server) -> Iterator[str]:
    """A proxy in front of a server; HOST:PORT of its gRPC port."""
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    command = [
        sys.executable, "-m", "proxy", "--server-grpc", server.grpc_url,
        "--server-http", server.http_url, "--server-metrics", metrics, "--log-level", "error",
    ]  # fmt: skip
    environment = project_environment(ROOT)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield f"127.0.0.1:{json.loads(line or '{}')['grpc']}"
        finally:
            process.terminate()


def _in_turns(
    figure: Callable[[Client], float], clients: tuple[Client, ...], tries: int
) -> list[float]:
    """Medians in seconds."""
    took = [[figure(client) for client in clients] for _ in range(tries)]
    return [statistics.median(way) for way in zip(*took, strict=True)]


def _unary(client: Client) -> float:
    begin = time.monotonic()
    client.checkpoint()
    return time.monotonic() - begin


def _chunk(client: Client) -> float:
    begin = time.monotonic()
    chunks = sum(1 for _ in client.stream(TEXT, **STREAM))
    return (time.monotonic() - begin) / chunks


def _flood(client: Client, seconds: float, rate: float) -> None:
    """Ask for whole answers, many more than can be given, and say how those fared that were."""
    alone = [_speak(client) for _ in range(15)]
    accepted: list[float] = []
    refused: list[float] = []

    def ask() -> None:
        begin = time.monotonic()
        try:
            accepted.append(_speak(client))
        except Overloaded:
            refused.append(time.monotonic() - begin)

    threads, begin = [], time.monotonic()
    for number in range(int(seconds * rate)):
        time.sleep(max(0.0, begin + number / rate - time.monotonic()))
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    for thread in threads:
        thread.join()
    after = [_speak(client) for _ in range(15)]
    table = Table("whole answers", "count", "p50, s", "p95, s")
    for name, took in (
        ("alone", alone), ("accepted in the flood", accepted), ("alone, after it", after),
        ("refusals", refused),
    ):  # fmt: skip
        if took:
            p50, p95 = np.percentile(took, (50, 95))
            table.add_row(name, str(len(took)), f"{p50:.3f}", f"{p95:.3f}")
    console.print(table)


def _speak(client: Client) -> float:
    begin = time.monotonic()
    client.synthesize(TEXT, seed=7)
    return time.monotonic() - begin


if __name__ == "__main__":
    typer.run(main)
