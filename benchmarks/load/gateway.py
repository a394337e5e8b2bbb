"""What the gateway adds: time to first audio against the raw stream, and throughput at 16 streams.

Also how long the slot of a caller who leaves stays taken.

    python -m benchmarks.load.gateway [--repository DIR] [--seconds 60]

Both ways ask the same server and take turns. The gateway runs in a process of its own.
"""

import http.client
import json
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.prepared import ROOT, endless, served
from benchmarks.report import console, finish
from launch.server import Server
from voicereel import Client
from voicereel.project import project_environment

TARGET_MS = 5.0  # added to the first audio of pcm and wav, at most
TARGET_SHARE = 0.97  # of the raw streams' throughput, at least
SLOTS = "fish_llama_active_slots"
TARGET_FREED_S = 2 * 2048 / 44100  # two frames of audio, from a caller's leave to a free slot
STREAMS = 16
FORMATS = ("pcm", "wav", "flac", "mp3", "opus", "aac")
TEXT = "Good morning, Bob. Did you sleep well?"
FIRST = {"seed": 7, "max_new_tokens": 8, "first_chunk_frames": 8}  # one window, 0.37 s
LONG = {"seed": 7, "max_new_tokens": 100}
LEFT = {"seed": 7, "max_new_tokens": 1000, "first_chunk_frames": 8}


def main(
    repository: Annotated[
        Path | None, typer.Option(help="Left out: tiny random weights that speak for ever.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Seconds to spend on each figure.")] = 60,
    record: Annotated[bool, typer.Option(help="Append to results/history.jsonl.")] = False,
) -> None:
    """Measure what the gateway adds."""
    with (
        served(repository or endless(quick=True)[1]) as (server, client),
        gateway(server.grpc_url) as address,
    ):
        first = first_audio(client, address, seconds)
        raw_s, through_s = throughput(client, address, seconds)
        freed_s = freed(server, address, seconds / 3)
    added = {name: 1000 * (first[name] - first["raw"]) for name in FORMATS}
    table = Table("format", "first audio, ms", "added, ms", title="One caller")
    table.add_row("raw gRPC", f"{1000 * first['raw']:.1f}", "")
    for name in FORMATS:
        table.add_row(name, f"{1000 * first[name]:.1f}", f"{added[name]:+.1f}")
    console.print(table)
    share = raw_s / through_s
    console.print(f"{STREAMS} streams: raw {raw_s:.2f} s, through the gateway {through_s:.2f} s")
    console.print(f"A caller leaves: the slot is free after {1000 * freed_s:.0f} ms")
    missed = [name for name in ("pcm", "wav") if added[name] > TARGET_MS]
    finish(
        {"first_audio_s": first, "added_ms": added, "throughput_share": share,
         "freed_s": freed_s,
         "targets_met": not missed and share >= TARGET_SHARE and freed_s <= TARGET_FREED_S},
        record,
    )  # fmt: skip


@contextmanager
def gateway(server: str) -> Iterator[str]:
    """A gateway in front of a server; its HOST:PORT."""
    command = [sys.executable, "-m", "gateway", "--port", "0", "--server", server]
    environment = project_environment(ROOT)
    environment["PYTHONPATH"] += f":{ROOT / 'client'}"
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            if not line.startswith("ready: "):
                raise typer.BadParameter("the gateway did not start: python -m gateway")
            yield line.removeprefix("ready: http://").strip().removesuffix("/v1")
        finally:
            process.terminate()


def first_audio(client: Client, address: str, seconds: float) -> dict[str, float]:
    """Median seconds to the first audio, raw and in each format; they take turns."""
    calls: dict[str, Callable[[], float]] = {"raw": lambda: _raw_first(client)}
    # Of the standard library: a client that does more would be measured too.
    kept = http.client.HTTPConnection(address, timeout=300)
    calls |= {name: lambda name=name: _gateway_first(kept, name) for name in FORMATS}
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times["raw"]) < 3:
        for name, call in calls.items():
            times[name].append(call())
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def _raw_first(client: Client) -> float:
    begin = time.perf_counter()
    chunks = client.stream(TEXT, **FIRST)  # type: ignore[arg-type]
    next(chunks)
    first_s = time.perf_counter() - begin
    list(chunks)
    return first_s


def _gateway_first(connection: http.client.HTTPConnection, format: str) -> float:
    body = {"model": "tts-1", "voice": "default", "input": TEXT, "response_format": format, **FIRST}
    begin = time.perf_counter()
    connection.request("POST", "/v1/audio/speech", json.dumps(body))
    answer = connection.getresponse()
    answer.read(1)
    first_s = time.perf_counter() - begin
    answer.read()
    return first_s


def throughput(client: Client, address: str, seconds: float) -> tuple[float, float]:
    """Median seconds for 16 streams at once, raw and through the gateway; they take turns."""

    def raw(_: int) -> int:
        chunks = client.stream(TEXT, **LONG)  # type: ignore[arg-type]
        return len(np.concatenate([chunk.waveform for chunk in chunks]))

    def through(_: int) -> int:
        body = {"model": "tts-1", "voice": "default", "input": TEXT, "response_format": "pcm"}
        connection = http.client.HTTPConnection(address, timeout=300)
        connection.request("POST", "/v1/audio/speech", json.dumps(body | LONG))
        return len(connection.getresponse().read())

    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    with ThreadPoolExecutor(STREAMS) as pool:
        while time.perf_counter() - begin < seconds or len(times[0]) < 3:
            for speak, found in zip((raw, through), times, strict=True):
                start = time.perf_counter()
                list(pool.map(speak, range(STREAMS)))
                found.append(time.perf_counter() - start)
    raw_s, through_s = (statistics.median(found[1:]) for found in times)
    return raw_s, through_s


def freed(server: Server, address: str, seconds: float) -> float:
    """Median seconds from a caller's leave, after the first audio, until no slot is taken."""
    body = {"model": "tts-1", "voice": "default", "input": TEXT, "response_format": "pcm", **LEFT}
    times: list[float] = []
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(times) < 3:
        connection = http.client.HTTPConnection(address, timeout=300)
        connection.request("POST", "/v1/audio/speech", json.dumps(body))
        answer = connection.getresponse()
        answer.read(1)
        answer.close()
        connection.close()
        left = time.perf_counter()
        while _slots_taken(server):
            time.sleep(0.002)
        times.append(time.perf_counter() - left)
    return statistics.median(times)


def _slots_taken(server: Server) -> float:
    with urllib.request.urlopen(server.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith(SLOTS))


if __name__ == "__main__":
    typer.run(main)
