"""A rolling restart: two servers in turn, under load by every way to balance; nothing is lost."""

import contextlib
import time
from pathlib import Path

from support import balanced
from support.chaos.world import Row, World, served
from support.nginx import free_port

LINES = 6
_ENDED_S = 120  # a drain under load, and the end
_SETTLED_S = 12  # a server that was away is the last choice for ten seconds at most


def rolling(repository: Path, folder: Path) -> Row:
    """Drain and restart each of two servers, on the ports that it had."""
    row, took = Row("rolling restart of two servers under load"), []
    folder.mkdir(parents=True, exist_ok=True)
    uses = ("http", "grpc", "metrics")
    ports = [[f"--{use}-port={free_port()}" for use in uses] for _ in range(2)]
    with contextlib.ExitStack() as stack:
        worlds = [stack.enter_context(served(repository, *asked)) for asked in ports]
        with worlds[0].client() as client:
            expected = [balanced.spoken(client, number) for number in range(LINES)]
        urls = [[world.facts[use] for world in worlds] for use in ("grpc", "http")]
        says, streamers = stack.enter_context(balanced.ways(*urls, folder))
        with balanced.Callers(says, streamers, expected) as callers:
            for index, asked in enumerate(ports):
                time.sleep(2)
                begin = time.monotonic()
                worlds[index].process.terminate()
                row.lost += worlds[index].process.wait(_ENDED_S) != 0
                ended = time.monotonic()
                worlds[index] = stack.enter_context(served(repository, *asked))
                took.append(f"{ended - begin:.1f} + {time.monotonic() - ended:.1f} s")
                time.sleep(_SETTLED_S)
        answered = [_answered(world) for world in worlds]
    row.tries = sum(callers.spoken.values())
    row.lost += len(callers.lost) + answered.count(0)
    row.notes += [
        f"drain and start took {' and '.join(took)}; they answered {answered} since",
        f"lines by way: {dict(callers.spoken)}",
        *callers.lost[:3],
    ]
    return row


def _answered(world: World) -> int:
    return int(world.metric("fish_llama_requests_total"))
