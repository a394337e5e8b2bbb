"""The simulation against real servers on this machine: `python -m benchmarks.capacity.validate`.

One and two tritonservers are measured with so many streams each, which gives the simulation their
times; then requests arrive at random, and go through the gateway's own choice of a server. The
simulation gets the same arrivals. It fails if a percentile differs by more than TOLERANCE.
The last line on stdout is one JSON object; all else goes to stderr.
"""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.capacity.simulation import Arrivals, Scenario, poisson, simulate
from benchmarks.prepared import PATIENCE_S, endless
from benchmarks.report import console, finish
from gateway.servers import Servers
from launch.server import Server
from voicereel import Client
from voicereel.capacity import between

TOLERANCE = 0.35  # of a percentile; a shared machine differs as much from itself
TEXT = "Good morning, Bob. Did you sleep well?"
LEVELS = (1, 2, 4, 8, 16)
_SHARE = 0.6  # of the frames a second with 8 streams a server
_FRAMES = 60  # 2.8 s of audio


@dataclass(frozen=True)
class Measured:
    """Times of a server, as `benchmarks.capacity.replica.Service` wants them."""

    slots: int
    steps_s: tuple[float, ...]
    firsts_s: tuple[float, ...]

    def step_s(self, streams: float) -> float:
        """Seconds in which each of so many streams gets one frame."""
        return between(streams, LEVELS, self.steps_s)

    def first_s(self, streams: float, *, p95: bool) -> float:
        """Median seconds to the first audio."""
        return between(streams, LEVELS, self.firsts_s)

    def mean_with(self, other: "Measured") -> "Measured":
        """The means of two measurements."""
        steps, firsts = (
            tuple((a + b) / 2 for a, b in zip(mine, others, strict=True))
            for mine, others in ((self.steps_s, other.steps_s), (self.firsts_s, other.firsts_s))
        )
        return Measured(self.slots, steps, firsts)


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: tiny random weights.")] = None,
    seconds: Annotated[float, typer.Option(help="Of arrivals, for each number of servers.")] = 30,
) -> None:
    """Measure, simulate, compare."""
    served, rows = repository or endless(quick=True)[1], []
    for count in (1, 2):
        with ExitStack() as stack:
            servers = [
                stack.enter_context(Server(served, deadline_s=PATIENCE_S)) for _ in range(count)
            ]
            rows.append(compare([server.grpc_url for server in servers], seconds))
            console.print(rows[-1])
    worst = max(
        abs(row[f"simulated_p{q}"] / row[f"real_p{q}"] - 1) for row in rows for q in (50, 95)
    )
    finish({"rows": rows, "worst_difference": worst, "tolerance": TOLERANCE})
    if worst > TOLERANCE:
        raise typer.Exit(1)


def compare(urls: Sequence[str], seconds: float) -> dict[str, float]:
    """Real and simulated seconds to the first audio, of the same arrivals."""
    before = measured(urls, seconds / 5)
    rate = _SHARE * len(urls) * 8 / (before.step_s(8) * _FRAMES)
    arrivals = poisson(rate, seconds, lambda rng: rng.randrange(_FRAMES // 2, 3 * _FRAMES // 2), 5)
    real = sorted(play(urls, arrivals))
    after = measured(urls, seconds / 5)  # a shared machine is not the same for a minute
    outcome = simulate(Scenario(before.mean_with(after), len(urls)), arrivals)
    row = {"servers": len(urls), "requests": len(arrivals), "requests_per_s": rate,
           "drift": after.step_s(4) / before.step_s(4)}  # fmt: skip
    for q in (50, 95):
        row[f"real_p{q}"] = real[min(len(real) - 1, q * len(real) // 100)]
        row[f"simulated_p{q}"] = outcome.first_audio(q / 100)
    return row


def measured(urls: Sequence[str], seconds: float) -> Measured:
    """Keep every server busy with so many streams each; they share the machine's cores."""
    clients = [Client(url, timeout_s=PATIENCE_S) for url in urls]
    for client in clients:
        list(client.stream(TEXT, max_new_tokens=20))  # the first call is slow
    steps, firsts = [], []
    for level in LEVELS:
        until = time.monotonic() + seconds

        def caller(client: Client, until: float = until) -> list[tuple[float, float]]:
            found = []
            while time.monotonic() < until:
                begin, first = time.monotonic(), 0.0
                for chunk in client.stream(TEXT, max_new_tokens=_FRAMES):
                    first = first or time.monotonic() - begin
                    is_last = chunk.is_last
                found.append((first, time.monotonic() - begin)) if is_last else None
            return found

        with ThreadPoolExecutor(level * len(urls)) as pool:
            told = [t for found in pool.map(caller, clients * level) for t in found]
        # A request's whole time is its first audio and the steps that come after its window.
        firsts.append(statistics.median(first for first, _ in told))
        steps.append(statistics.median(whole for _, whole in told) / _FRAMES)
    for client in clients:
        client.close()
    return Measured(16, tuple(steps), tuple(firsts))


def play(urls: Sequence[str], arrivals: Arrivals) -> list[float]:
    """Seconds to the first audio of real requests that arrive at these times."""
    servers = Servers(list(urls), PATIENCE_S)
    for _ in servers.all():  # which connects in turn, no part of this
        list(servers.stream(lambda client: client.stream(TEXT, max_new_tokens=8)))
    begin = time.monotonic()

    def ask(arrival: tuple[float, int]) -> float:
        at, frames = arrival
        time.sleep(max(0.0, begin + at - time.monotonic()))
        asked, first = time.monotonic(), 0.0
        for _ in servers.stream(lambda client: client.stream(TEXT, max_new_tokens=frames)):
            first = first or time.monotonic() - asked
        return first

    with ThreadPoolExecutor(len(arrivals)) as pool:
        found = list(pool.map(ask, arrivals))
    servers.close()
    return found


if __name__ == "__main__":
    typer.run(main)
