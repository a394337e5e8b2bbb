"""`make chaos`: every fault against a real server, in one table, whose rows end it as JSON.

Exits with 1 if anything was lost or a recovery took longer than promised.
"""

import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.prepared import ROOT, export_command, prepared
from support.chaos import artefacts, clock, disks, faults, strangers
from support.chaos.fuzz import fuzz
from support.chaos.rolling import rolling
from support.chaos.soak import soak
from support.chaos.world import Row, World, served, slow_copy

OUT = ROOT / "out"
Step = tuple[str, Callable[[World], Row]]


def main(
    minutes: Annotated[float, typer.Option(help="Of the soak.")] = 3,
    requests: Annotated[int, typer.Option(help="Of the fuzz.")] = 10_000,
    only: Annotated[str, typer.Option(help="Steps whose names begin so, joined by commas.")] = "",
    repository: Annotated[
        Path | None, typer.Option(help="What is served; left out: a tiny random checkpoint.")
    ] = None,
) -> None:
    """Print the table."""
    plain = repository or prepared("tiny", "tiny")[1]
    build = ROOT / "build"  # where the repository can be linked
    with tempfile.TemporaryDirectory(dir=build, prefix="chaos-") as folder:
        slow = slow_copy(plain, Path(folder, "repository"))
        rows = list(_rows(slow, plain, Path(folder), minutes, requests, only))
    print(json.dumps([dataclasses.asdict(row) | {"held": row.held} for row in rows]))
    raise typer.Exit(0 if all(row.held for row in rows) else 1)


def _rows(
    repository: Path, plain: Path, folder: Path, minutes: float, requests: int, only: str
) -> Iterator[Row]:
    def wanted(name: str) -> bool:
        return not only or name.startswith(tuple(only.split(",")))

    print(f"{'fault':60} {'tries':>6} {'lost':>5} {'recovery':>9} {'limit':>6}", flush=True)
    steps = [step for step in _steps(repository, minutes, requests) if wanted(step[0])]
    if steps or wanted("kill"):
        with served(repository) as world:
            names = [*world.stubs(), "tritonserver", "proxy"] if wanted("kill") else []
            for name in names:
                yield _shown(lambda name=name: faults.death(world, name))
            for _, step in steps:
                yield _shown(lambda step=step: step(world))
    for name, why_not, alone in _alone(repository, plain, folder):
        if wanted(name) and why_not:
            print(f"left out: {name}: {why_not}")
        elif wanted(name):
            yield _shown(alone)


def _steps(repository: Path, minutes: float, requests: int) -> list[Step]:
    """What one server outlives, one after the other."""
    return [
        ("stop", lambda w: faults.death(w, "fish_llama_0_0", signal.SIGSTOP)),
        ("stop", lambda w: faults.death(w, "tritonserver", signal.SIGSTOP)),
        ("stop", lambda w: faults.death(w, "proxy", signal.SIGSTOP)),
        ("bombs", faults.bombs),
        ("options", strangers.options),
        ("idle", strangers.idle),
        ("idle", strangers.idle_streams),
        ("slow", strangers.slow_senders),
        ("fuzz", lambda w: fuzz(w, requests)),
        ("leavers", faults.leavers),
        ("stalled", faults.stalled),
        ("second", lambda w: disks.second_server(w, repository)),
        ("flood", faults.flood),
        ("script", faults.script),
        ("soak", lambda w: soak(w, minutes, OUT / "soak.png")),
    ]


def _alone(
    repository: Path, plain: Path, folder: Path
) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """What needs a server of its own, or none: its name, why it cannot be tried, and the trial."""
    for to_server in (False, True):
        yield "term", "", lambda to=to_server: _stopped(repository, to)
    yield "rolling", "", lambda: rolling(repository, folder / "rolling")
    yield "supervisor", "", lambda: strangers.supervisor_killed(repository)
    yield "ports", "", lambda: strangers.port_taken(repository)
    yield "ports", "", lambda: strangers.public_port_taken(repository)
    yield "folder", "", lambda: strangers.folder_removed(repository)
    yield "clock", clock.can_jump(), lambda: clock.jumps(repository, folder / "clock")
    for model in ("fish_llama", "fish_decoder"):
        for kind in artefacts.KINDS:
            yield "artefact", "", lambda m=model, k=kind: artefacts.at_start(plain, folder, m, k)
        for kind, at_once in (("swapped", True), ("swapped", False), ("truncated", False)):
            yield (
                "artefact",
                "",
                lambda m=model, k=kind, o=at_once: artefacts.while_serving(
                    repository, folder, m, k, o
                ),
            )
    why = disks.can_mount()
    yield "disk", why, lambda: disks.full_disk(plain)
    yield "disk", why, lambda: disks.read_only_disk(plain)
    yield "disk", why, lambda: disks.full_later(repository)
    for read_only in (False, True):
        yield "disk", why, lambda ro=read_only: disks.export(_checkpoint(folder), ro)
    yield "shm", why, lambda: disks.small_shm(plain, folder / "long.wav")
    yield "shm", why, lambda: disks.full_shm(repository, folder / "short.wav")


def _stopped(repository: Path, to_server: bool) -> Row:
    with served(repository) as world:
        return faults.stop(world, to_server)


def _checkpoint(folder: Path) -> Path:
    """A tiny one, for exports that fail."""
    if not (made := folder / "checkpoint").is_dir():
        export_command("make-checkpoint", "tiny", "--out", made)
    return made


def _shown(step: Callable[[], Row]) -> Row:
    begin = time.monotonic()
    try:
        row = step()
    except Exception as problem:  # the table goes on
        row = Row(f"{type(problem).__name__}: {problem}"[:60], 1, 1)
        traceback.print_exc()
    back = "" if row.recovery_s is None else f"{row.recovery_s:.1f} s"
    limit = "" if row.recovery_s is None else f"{row.limit_s:g} s"
    mark = "" if row.held else "  <-- not held"
    print(f"{row.fault[:60]:60} {row.tries:6} {row.lost:5} {back:>9} {limit:>6}{mark}")
    took = f"took {time.monotonic() - begin:.0f} s, load average {os.getloadavg()[0]:.1f}"
    for note in [*row.notes, took]:
        print(f"    {note}", flush=True)
    return row


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "client"))
    typer.run(main)
