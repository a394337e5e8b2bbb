"""Artefacts that are not those of the export: at the start, and while a server runs on them."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from launch.run_folder import SHARED_MEMORY
from support.chaos.disks import refused, serve_command
from support.chaos.world import ERROR_S, Listener, Row, served, since

KINDS = ("swapped", "truncated")
_SPOILT = {"fish_llama": "llama.*", "fish_decoder": "model*"}  # files by the model that reads them
_GIVES_UP_S = 120  # a restart, which is refused when the other models have loaded


def spoil(repository: Path, model: str, kind: str, at_once: bool) -> None:
    """Cut a model's artefacts short, or give it another model's.

    Args:
        repository: Is changed.
        model: One of two whose files are spoilt.
        kind: One of `KINDS`.
        at_once: Into new files that take the old ones' names; or written over, as `cp` does.
    """
    other = next(name for name in _SPOILT if name != model)
    foreign = max((repository / other / "1").glob(_SPOILT[other]), key=lambda p: p.stat().st_size)
    for file in (repository / model / "1").glob(_SPOILT[model]):
        if file.suffix == ".py":
            continue
        half = file.read_bytes()[: file.stat().st_size // 2]
        written = half if kind == "truncated" else foreign.read_bytes()
        target = file.with_name(".new") if at_once else file
        target.write_bytes(written)
        target.replace(file)


def at_start(repository: Path, folder: Path, model: str, kind: str) -> Row:
    """A start on spoilt artefacts is refused, and names the model."""
    row = Row(f"{kind} artefact of {model} at the start")
    copy = folder / f"{kind}-{model}"
    shutil.copytree(repository, copy)
    spoil(copy, model, kind, at_once=False)
    return refused(row, serve_command(copy), "is not the file that was exported")


def while_serving(repository: Path, folder: Path, model: str, kind: str, at_once: bool) -> Row:
    """A stream goes on, or its caller is told; the next start is refused in words."""
    how = "put in its place" if at_once else "written over it"
    row = Row(f"{kind} artefact of {model} {how} while serving", tries=1)
    copy = folder / f"served-{kind}-{model}-{at_once}"
    shutil.copytree(repository, copy)
    before = {path.name for path in SHARED_MEMORY.iterdir()}
    with served(copy, "--restarts=1") as world:
        listener = Listener(world)
        listener.heard.wait(20)
        begin = time.monotonic()
        spoil(copy, model, kind, at_once)
        outcome = listener.join(30)
        row.lost += outcome not in ("whole", "refused")
        row.notes.append(f"its caller: {outcome} after {listener.ended - begin:.1f} s")
        if at_once:  # files that are open are what they were
            row.lost += outcome != "whole" or not world.speaks()
        with contextlib.suppress(OSError):
            os.kill(world.server, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            world.process.wait(_GIVES_UP_S)
        row.lost += world.process.returncode != 1
        row.lost += not world.says("is not the file that was exported")
        row.notes.append(f"exit {world.process.returncode}: {world.last_words()}")
    row.lost += since(lambda: not _left(before), time.monotonic(), ERROR_S) > ERROR_S
    return row


def _left(before: set[str]) -> set[str]:
    return {p.name for p in SHARED_MEMORY.glob("voicereel_*")} - before
