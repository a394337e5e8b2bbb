"""`make chaos`: every fault against a real server, in one table, whose rows end it as JSON.

Exits with 1 if anything was lost or a recovery took longer than promised.
"""

import dataclasses
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.prepared import ROOT, prepared
from support.chaos import disks, faults
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
    folder = ROOT / "build" / "chaos"
    shutil.rmtree(folder, ignore_errors=True)
    plain = repository or prepared("tiny", "tiny")[1]
    slow = slow_copy(plain, folder / "repository")
    rows = list(_rows(slow, plain, folder, minutes, requests, only))
    print(json.dumps([dataclasses.asdict(row) | {"held": row.held} for row in rows]))
    raise typer.Exit(0 if all(row.held for row in rows) else 1)


def _rows(
    repository: Path, plain: Path, folder: Path, minutes: float, requests: int, only: str
) -> Iterator[Row]:
    def wanted(name: str) -> bool:
        return not only or name.startswith(tuple(only.split(",")))

    print(f"{'fault':60} {'tries':>6} {'lost':>5} {'recovery':>9} {'limit':>6}", flush=True)
    steps = [step for step in _steps(repository, minutes, requests) if wanted(step[0])]
    if steps:
        with served(repository) as world:
            instances = world.stubs() if wanted("kill") else {}
            names = [*instances, "tritonserver", "proxy"] if wanted("kill") else []
            for name in names:
                yield _shown(lambda name=name: faults.death(world, name))
            for _, step in steps:
                yield _shown(lambda step=step: step(world))
    for to_server in (False, True):
        if wanted("term"):
            with served(repository) as world:
                yield _shown(lambda world=world, to=to_server: faults.stop(world, to))
    if wanted("rolling"):
        yield _shown(lambda: rolling(repository, folder / "rolling"))
    if wanted("disk"):
        for spoilt in ("truncated", "swapped"):
            yield _shown(lambda spoilt=spoilt: disks.artefact(plain, folder, spoilt))
        if why := disks.can_mount():
            print(f"left out: full and read-only disks, small /dev/shm: {why}")
        else:
            yield _shown(lambda: disks.full_disk(plain))
            yield _shown(lambda: disks.read_only_disk(plain))
            yield _shown(lambda: disks.small_shm(plain, folder / "long.wav"))


def _steps(repository: Path, minutes: float, requests: int) -> list[Step]:
    return [
        ("stop", lambda w: faults.death(w, "fish_llama_0_0", signal.SIGSTOP)),
        ("bombs", faults.bombs),
        ("fuzz", lambda w: fuzz(w, requests)),
        ("leavers", faults.leavers),
        ("stalled", faults.stalled),
        ("second", lambda w: disks.second_server(w, repository)),
        ("flood", faults.flood),
        ("script", faults.script),
        ("soak", lambda w: soak(w, minutes, OUT / "soak.png")),
    ]


def _shown(step: Callable[[], Row]) -> Row:
    begin = time.monotonic()
    try:
        row = step()
    except Exception as problem:  # the table goes on
        row = Row(f"{type(problem).__name__}: {problem}"[:60], 1, 1)
    back = "" if row.recovery_s is None else f"{row.recovery_s:.1f} s"
    limit = "" if row.recovery_s is None else f"{row.limit_s:g} s"
    mark = "" if row.held else "  <-- not held"
    print(f"{row.fault[:60]:60} {row.tries:6} {row.lost:5} {back:>9} {limit:>6}{mark}")
    for note in [*row.notes, f"took {time.monotonic() - begin:.0f} s"]:
        print(f"    {note}", flush=True)
    return row


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "client"))
    typer.run(main)
