"""Callers and neighbours that nobody expects: idle or slow ones, taken ports, odd numbers."""

import contextlib
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc as grpc_core
import numpy as np
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from ensemble.contract.options import OPTIONS
from launch.run_folder import SHARED_MEMORY
from support.chaos.world import BACK_S, ERROR_S, Row, World, served, since
from support.launched import alive, run_name
from support.raw import tensors

_ODD = (-1, 0, -(2**31), 2**31 - 1, float("nan"), float("inf"), -float("inf"), 1e38, 2**64 - 1)


def idle(world: World, count: int = 3000) -> Row:
    """Connections that ask for nothing, at every port, keep nobody out."""
    row = Row(f"{count} idle connections at each port", 3 * count, limit_s=5)
    with contextlib.ExitStack() as opened:
        for use in ("http", "grpc", "metrics"):
            for _ in range(count):
                row.lost += _connected(world, use, opened) is None
        begin = time.monotonic()
        row.recovery_s = since(lambda: world.speaks(5), begin, 30)
        row.lost += world.status() != 200 or not world.metric("voicereel_proxy_server_ready")
    row.lost += not world.speaks()
    return row


def idle_streams(world: World, count: int = 300) -> Row:
    """Streams of gRPC that ask for nothing keep nobody waiting, and leave nothing when they end."""
    row = Row(f"{count} idle streams", count, limit_s=5)
    ended, descriptors = threading.Event(), _descriptors(world)

    def nothing() -> Iterator[bytes]:
        ended.wait()
        yield from ()

    with contextlib.ExitStack() as opened:
        opened.callback(ended.set)
        channel = opened.enter_context(grpc_core.insecure_channel(world.facts["grpc"]))
        method = "/inference.GRPCInferenceService/ModelStreamInfer"
        calls = [channel.stream_stream(method)(nothing()) for _ in range(count)]
        time.sleep(2)
        begin = time.monotonic()
        row.recovery_s = since(lambda: world.speaks(5), begin, 30)
        row.lost += sum(not call.is_active() for call in calls)
    since(lambda: _descriptors(world) <= descriptors + 5, time.monotonic(), 10)
    row.lost += not world.speaks()
    row.notes.append(f"descriptors of the proxy: {descriptors}, then {_descriptors(world)}")
    return row


def _descriptors(world: World) -> int:
    return len(os.listdir(f"/proc/{world.proxy}/fd"))


def slow_senders(world: World, count: int = 200, seconds: float = 8) -> Row:
    """Requests that come a few bytes a second (slowloris) keep nobody waiting."""
    row = Row(f"{count} requests that come a byte at a time", count, limit_s=5)
    head = b"POST /v2/models/fish_tts/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with contextlib.ExitStack() as opened:
        slow = [_connected(world, "http", opened) for _ in range(count)]
        row.lost += slow.count(None)
        begin = time.monotonic()
        for byte in head[: int(seconds)]:
            for connection in filter(None, slow):
                with contextlib.suppress(OSError):
                    connection.send(bytes([byte]))
            time.sleep(1)
            row.lost += not world.speaks(5)
        row.recovery_s = max(0.0, time.monotonic() - begin - seconds - seconds)
    return row


def _connected(world: World, use: str, opened: contextlib.ExitStack) -> socket.socket | None:
    url = world.facts[use].removeprefix("http://").partition("/")[0]
    host, _, port = url.rpartition(":")
    with contextlib.suppress(OSError):
        return opened.enter_context(socket.create_connection((host, int(port)), timeout=5))
    return None


def options(world: World) -> Row:
    """Every option with numbers that mean nothing: refused as the caller's mistake, or spoken."""
    row = Row("options that are negative, huge or no numbers", limit_s=5)
    pids = world.stubs()
    with grpc.InferenceServerClient(world.facts["grpc"]) as client:
        for option in OPTIONS:
            for number in _numbers(option.dtype):
                asked = {"text": "Hello.", "max_new_tokens": 1, option.name: number}
                row.tries += 1
                begin = time.monotonic()
                try:
                    # Whoever may speak for long is not waited for.
                    client.infer("fish_tts", tensors(**asked), client_timeout=2)
                    wrong = not _may_be(option.low, number, option.high)
                except InferenceServerException as error:
                    refused = "INVALID_ARGUMENT" in str(error.status())
                    wrong = not refused and _may_be(option.low, number, option.high) is False
                if wrong or time.monotonic() - begin > ERROR_S:
                    row.lost += 1
                    row.notes.append(f"{option.name} = {number} was not refused")
    row.recovery_s = since(world.speaks, time.monotonic(), 120)
    row.lost += world.stubs() != pids
    return row


def _may_be(low: float, number: float, high: float) -> bool:
    return low <= number <= high


def _numbers(dtype: str) -> Iterator[float]:
    for number in _ODD:
        if dtype == "FP32" or (np.isfinite(number) and number == int(number)):
            limits = {"INT32": (-(2**31), 2**31 - 1), "UINT64": (0, 2**64 - 1)}.get(dtype)
            if limits is None or limits[0] <= number <= limits[1]:
                yield float(np.float32(number)) if dtype == "FP32" else int(number)


def supervisor_killed(repository: Path) -> Row:
    """SIGKILL of `make serve` itself: no orphans; what is left in memory goes at the next start."""
    row = Row("SIGKILL of the supervisor", tries=1, limit_s=5)
    with served(repository) as world:
        server, proxy, name = world.server, world.proxy, run_name(world.server)
        begin = time.monotonic()
        world.process.kill()
        row.recovery_s = since(lambda: not (alive(server) or alive(proxy)), begin, 30)
        world.process.wait()
    with served(repository) as world:
        row.lost += not world.speaks()
        row.lost += bool(list(SHARED_MEMORY.glob(f"{name}*")))
    return row


def port_taken(repository: Path) -> Row:
    """Somebody takes tritonserver's own ports between its death and its restart."""
    row = Row("SIGKILL of tritonserver, another process takes its ports", tries=1, limit_s=BACK_S)
    with served(repository) as world, contextlib.ExitStack() as held:
        ports = _ports_of(world.server)
        begin = time.monotonic()
        os.kill(world.server, signal.SIGKILL)
        while ports and time.monotonic() < begin + 3:
            for port in list(ports):
                with contextlib.suppress(OSError):
                    held.enter_context(socket.create_server(("127.0.0.1", port)))
                    ports.remove(port)
        row.notes.append(f"ports not taken in time: {ports}")
        row.recovery_s = since(lambda: world.status() == 200 and world.speaks(), begin, 120)
        row.notes.append(world.last_words())
    return row


def _ports_of(pid: int) -> list[int]:
    flags = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    return [int(flag.partition("=")[2]) for flag in flags
            if flag.startswith(("--http-port=", "--grpc-port=", "--metrics-port="))]  # fmt: skip


def public_port_taken(repository: Path, seconds: float = 4) -> Row:
    """The proxy dies, and another process has its port for some seconds."""
    row = Row("SIGKILL of the proxy, its port is taken for 4 s", tries=1, limit_s=BACK_S + seconds)
    with served(repository) as world:
        port = int(world.facts["http"].rpartition(":")[2])
        begin = time.monotonic()
        os.kill(world.proxy, signal.SIGKILL)
        while time.monotonic() < begin + 2:
            with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
                time.sleep(seconds)
                break
        row.recovery_s = since(lambda: world.status() == 200 and world.speaks(), begin, 120)
        row.notes.append("; ".join(line.strip()[:120] for line in world.said[-3:]))
    return row


def folder_removed(repository: Path) -> Row:
    """Something clears the folder for temporary files, and then processes die."""
    row = Row("temporary files are removed, then a stub and the proxy are killed", tries=2)
    with served(repository) as world:
        name = run_name(world.server)
        for folder in Path("/tmp").glob("voicereel-*/voicereel_*"):
            if folder.name == name or _is_of(folder, world.process.pid):
                shutil.rmtree(folder)
        row.lost += not world.speaks()
        for pid in (world.stubs()["fish_decoder_0_0"], world.proxy):
            begin = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            time.sleep(1)
            took = since(lambda: world.status() == 200 and world.speaks(), begin, 120)
            row.recovery_s = max(row.recovery_s or 0, took)
        row.notes.append("; ".join(line.strip()[:120] for line in world.said[-3:]))
    return row


def _is_of(folder: Path, pid: int) -> bool:
    """Whether a process holds the folder's lock."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has been closed since
            if os.readlink(link) == str(folder / "lock"):
                return True
    return False
