"""Real servers under load, for the validation: each on a core of its own, as on its own machine."""

import os
import random
import re
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.capacity.simulation import Arrivals
from benchmarks.prepared import PATIENCE_S
from gateway.servers import Servers
from launch import processes
from launch.server import Server
from voicereel import Client

TEXT = "Good morning, Bob. Did you sleep well?"
FRAMES = 60  # 2.8 s of audio on average; from half to one and a half of it
_COUNTED = re.compile(r"^(fish_llama_\w+|nv_inference_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_FIRST = "-15"  # a niceness: others get a thirtieth of a core that is wanted here
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Answer:
    """Attributes:
    first_s: From the request to its first audio.
    whole_s: From the request to its end.
    """

    first_s: float
    whole_s: float


@dataclass
class Watch:
    """What a time cost, once it is over.

    Attributes:
        grown: By how much the they grew; `cpu NAME`: CPU seconds of a model's processes, or of
            `tritonserver` itself.
        callers_s: CPU seconds of this process.
        others_s: CPU seconds of all other processes of the machine.
        wall_s: How long it took.
    """

    grown: dict[str, float] = field(default_factory=dict)
    callers_s: float = 0.0
    others_s: float = 0.0
    wall_s: float = 0.0

    def sum(self, begin: str, contains: str = "") -> float:
        """Of all counters whose names begin so."""
        found = (n for n in self.grown if n.startswith(begin) and contains in n)
        return sum(self.grown[name] for name in found)


def frames(rng: random.Random) -> int:
    """Of a request."""
    return rng.randrange(FRAMES // 2, 3 * FRAMES // 2)


@contextmanager
def servers(repository: Path, count: int) -> Iterator[list[Server]]:
    """Servers with a core each; callers have the other cores, or all if there are none.

    As root they and the callers go before what else the machine does.
    """
    cores = sorted(os.sched_getaffinity(0))
    if count > len(cores):
        raise RuntimeError(f"{count} servers need a core each, and there are {len(cores)}")
    with ExitStack() as stack:
        stack.callback(os.sched_setaffinity, 0, cores)
        _go_first(os.getpid())
        found = []
        for core in cores[:count]:
            os.sched_setaffinity(0, {core})  # what it starts inherits this
            one = {"OMP_NUM_THREADS": "1"}
            server = Server(repository, deadline_s=PATIENCE_S, environment=one)
            found.append(stack.enter_context(server))
            _go_first(server.pid)
        os.sched_setaffinity(0, cores[count:] or cores)
        yield found


def _go_first(pid: int) -> None:
    """Before what else the machine does: a session's niceness is what counts between sessions."""
    with suppress(OSError):  # not root, or a kernel without it
        Path(f"/proc/{pid}/autogroup").write_text(_FIRST, "utf-8")


@contextmanager
def watched(started: Sequence[Server]) -> Iterator[Watch]:
    """Count what the servers, this process and others do meanwhile."""
    watch, begin = Watch(), time.monotonic()
    before, own, busy = _counters(started), time.process_time(), _busy_s()
    yield watch
    watch.wall_s, watch.callers_s = time.monotonic() - begin, time.process_time() - own
    watch.grown = {n: v - before.get(n, 0.0) for n, v in _counters(started).items()}
    watch.others_s = _busy_s() - busy - watch.callers_s - watch.sum("cpu ")


def busy(started: Sequence[Server], streams: int, seconds: float) -> tuple[list[Answer], Watch]:
    """Keep every server busy with so many streams."""
    clients = [Client(server.grpc_url, timeout_s=PATIENCE_S) for server in started]
    for client in clients:
        list(client.stream(TEXT, max_new_tokens=20))  # the first call is slow

    with watched(started) as watch:
        until = time.monotonic() + seconds

        def caller(asked: tuple[int, Client]) -> list[Answer]:
            rng, told = random.Random(asked[0]), []
            while time.monotonic() < until:
                told.append(_heard(asked[1].stream(TEXT, max_new_tokens=frames(rng))))
            return told

        with ThreadPoolExecutor(streams * len(clients)) as pool:
            told = [t for found in pool.map(caller, enumerate(clients * streams)) for t in found]
    for client in clients:
        client.close()
    return told, watch


def play(started: Sequence[Server], arrivals: Arrivals) -> tuple[list[Answer], Watch]:
    """Real requests that arrive at these times, through the gateway's choice of a server."""
    door = Servers([server.grpc_url for server in started], PATIENCE_S)
    for _ in door.all():  # which connects in turn, no part of this
        list(door.stream(lambda client: client.stream(TEXT, max_new_tokens=8)))
    found: list[Any] = [None] * len(arrivals)

    def ask(number: int, length: int) -> None:
        found[number] = _heard(
            door.stream(lambda client: client.stream(TEXT, max_new_tokens=length))
        )

    with watched(started) as watch:
        begin, threads = time.monotonic(), []
        for number, (at, length) in enumerate(arrivals):
            threads.append(threading.Thread(target=ask, args=(number, length)))
            time.sleep(max(0.0, begin + at - time.monotonic()))
            threads[-1].start()
        for thread in threads:
            thread.join()
    door.close()
    return found, watch


def slots(server: Server) -> int:
    """Requests that it decodes together, at most."""
    return int(_counters([server])["fish_llama_slots"])


def _heard(chunks: Iterator[Any]) -> Answer:
    asked, first = time.monotonic(), 0.0
    for _ in chunks:
        first = first or time.monotonic() - asked
    return Answer(first, time.monotonic() - asked)


def _counters(started: Sequence[Server]) -> dict[str, float]:
    """Sums over the servers."""
    told: dict[str, float] = {}
    for server in started:
        for name, labels, value in _COUNTED.findall(server.metrics()):
            told[name + labels] = told.get(name + labels, 0.0) + float(value)
        stubs = processes.stubs(server.pid)
        for pid, name in [(server.pid, "tritonserver"), *stubs.items()]:
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
            key = "cpu " + re.sub(r"(_[0-9]+)+$", "", name)  # without the instance
            told[key] = told.get(key, 0.0) + sum(map(int, fields[11:13])) / _TICKS_PER_S
    return told


def _busy_s() -> float:
    """CPU seconds of all processes since the machine's start."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text("utf-8").split("\n")[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S
