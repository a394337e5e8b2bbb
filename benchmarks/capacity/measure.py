"""Real servers under load, for the validation: each on a core of its own, as on its own machine."""

import os
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.capacity.simulation import Arrivals
from benchmarks.prepared import PATIENCE_S
from gateway.servers import Servers
from launch import processes
from launch.server import Server
from voicereel import Client

TEXT = "Good morning, Bob. Did you sleep well?"
LEVELS = (1, 2, 4, 8, 16)
FRAMES = 60  # 2.8 s of audio on average; from half to one and a half of it
_KEPT = re.compile(r"^(fish_llama_\w+|nv_inference_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


def frames(rng: random.Random) -> int:
    """Of a request."""
    return rng.randrange(FRAMES // 2, 3 * FRAMES // 2)


@contextmanager
def servers(repository: Path, count: int) -> Iterator[list[Server]]:
    """Servers with one core each; the callers have all cores."""
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise RuntimeError(f"{count} servers need a core each, and there are {len(cores)}")
    one = {"OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        found = []
        for core in cores[:count]:
            try:
                os.sched_setaffinity(0, {core})  # what it starts inherits this
                server = Server(repository, deadline_s=PATIENCE_S, environment=one)
                found.append(stack.enter_context(server))
            finally:
                os.sched_setaffinity(0, cores)
        yield found


def levels(started: Sequence[Server], seconds: float, of: Sequence[int] = LEVELS) -> list[Any]:
    """Every server busy with so many streams, each so many seconds.

    Returns:
        For each level the seconds to the first audio, to the end, and the frames of each request;
        and by how much the servers' metrics grew.
    """
    clients = [Client(server.grpc_url, timeout_s=PATIENCE_S) for server in started]
    for client in clients:
        list(client.stream(TEXT, max_new_tokens=20))  # the first call is slow
    found = []
    for level in of:
        until, before = time.monotonic() + seconds, [metrics(server) for server in started]

        def caller(asked: tuple[int, Client], until: float = until) -> list[Any]:
            rng, told = random.Random(asked[0]), []
            while time.monotonic() < until:
                told.append(_streamed(asked[1].stream, frames(rng)))
            return told

        with ThreadPoolExecutor(level * len(clients)) as pool:
            told = [t for found in pool.map(caller, enumerate(clients * level)) for t in found]
        after = [metrics(server) for server in started]
        grown = [{name: late[name] - early.get(name, 0) for name in late}
                 for early, late in zip(before, after, strict=True)]  # fmt: skip
        found.append({"level": level, "requests": told, "grown": grown, "slots": slots(after[0])})
    for client in clients:
        client.close()
    return found


def play(started: Sequence[Server], arrivals: Arrivals) -> list[Any]:
    """Real requests that arrive at these times, through the gateway's choice of a server.

    Returns:
        Seconds to the first audio, to the end, and the frames of each.
    """
    door = Servers([server.grpc_url for server in started], PATIENCE_S)
    for _ in door.all():  # which connects in turn, no part of this
        list(door.stream(lambda client: client.stream(TEXT, max_new_tokens=8)))
    begin = time.monotonic() + 0.5

    def speak(text: str, max_new_tokens: int) -> Iterator[Any]:
        return door.stream(lambda client: client.stream(text, max_new_tokens=max_new_tokens))

    found: list[Any] = [None] * len(arrivals)
    threads = []
    for number, (at, length) in enumerate(arrivals):

        def ask(number: int = number, length: int = length) -> None:
            found[number] = _streamed(speak, length)

        time.sleep(max(0.0, begin + at - time.monotonic()))
        threads.append(threading.Thread(target=ask))
        threads[-1].start()
    for thread in threads:
        thread.join()
    door.close()
    return found


def _streamed(stream: Any, length: int) -> tuple[float, float, int]:
    asked, first = time.monotonic(), 0.0
    for _ in stream(TEXT, max_new_tokens=length):
        first = first or time.monotonic() - asked
    return first, time.monotonic() - asked, length


def metrics(server: Server) -> dict[str, float]:
    """What the server counts, and CPU seconds of its processes: `cpu` and the model, or the server."""
    told = {name + labels: float(value) for name, labels, value in _KEPT.findall(server.metrics())}
    for pid, name in [(server.pid, "tritonserver"), *processes.stubs(server.pid).items()]:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        key = f"cpu {re.sub(r'(_[0-9]+)+$', '', name)}"
        told[key] = told.get(key, 0) + sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return told


def slots(told: dict[str, float]) -> int:
    """Requests decoded together, at most."""
    return int(next(v for name, v in told.items() if name.startswith("fish_llama_slots")))
