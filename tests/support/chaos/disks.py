"""Disks, shared memory, ports and artefacts that are not as they should be: what `serve` says."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from launch.run_folder import SHARED_MEMORY
from support.chaos.world import Listener, Row, World, served, since
from support.launched import PROJECT
from voicereel import VoiceReelError

_START_S = 240
_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
# A mount namespace of its own: nobody else sees these mounts.
_NAMESPACE = ("unshare", "-m", "sh", "-c")
_SMALL_SHM = (*_NAMESPACE, 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"', "sh")
_READ_ONLY = (
    *_NAMESPACE,
    "for f in /tmp /var/tmp; do mount -t tmpfs -o ro none $f; done; "
    'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd "$PWD" && exec "$@"',
    "sh",
)


def can_mount() -> str:
    """Why this process can make no mount namespace; "" if it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run([*_NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True, text=True)
    return done.stderr.strip()


def refused(row: Row, command: Sequence[str], expected: str, **how) -> Row:
    """A start that must fail, with words, and leave nothing."""
    row.tries = 1
    before = {path.name for path in SHARED_MEMORY.iterdir()}
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, timeout=_START_S, **how
    )
    said = done.stderr.strip().splitlines()
    says = bool(said) and expected in done.stderr and "Traceback" not in done.stderr
    row.notes.append(f"exit {done.returncode}: {said[-1][:150] if said else 'nothing said'}")
    left = [p for p in SHARED_MEMORY.iterdir() if p.name not in before and _is_ours(p, done)]
    row.lost = int(done.returncode == 0 or not says or bool(left))
    return row


def _is_ours(region: Path, done: subprocess.CompletedProcess) -> bool:
    """Whether a region belongs to a server that said its run folder's name."""
    return region.name[:18] in done.stderr


def serve_command(repository: Path, *arguments: str) -> list[str]:
    """`python -m launch.serve` on free ports."""
    return [sys.executable, "-m", "launch.serve", "--repository", str(repository), *_PORTS,
            *arguments]  # fmt: skip


def second_server(world: World, repository: Path) -> Row:
    """A second server on the same ports is refused at once; the first goes on."""
    port = world.facts["http"].rpartition(":")[2]
    row = refused(
        Row("second server on the same ports"),
        serve_command(repository, f"--http-port={port}"),
        "Address already in use",
    )
    row.lost += not world.speaks()
    return row


def full_disk(repository: Path, size: str = "1m") -> Row:
    """The folder for temporary files is full."""
    row = Row("full disk at the start")
    return refused(row, [*_with_tmp(size), *serve_command(repository)], "No space left on device")


def _with_tmp(size: str) -> list[str]:
    """A command that becomes the one after it, with a disk of this size for temporary files."""
    script = f'mount -t tmpfs -o size={size} none /mnt && TMPDIR=/mnt exec "$@"'
    return [*_NAMESPACE, script, "sh"]


def read_only_disk(repository: Path) -> Row:
    """Every folder for temporary files can only be read."""
    row = Row("read-only disk at the start")
    return refused(row, [*_READ_ONLY, *serve_command(repository)], "No usable temporary directory")


def export(checkpoint: Path, read_only: bool) -> Row:
    """An export to a disk that takes nothing says so before any work."""
    row = Row(f"{'read-only' if read_only else 'full'} disk at the export")
    made = PROJECT / "build/exported" if read_only else Path("/mnt/exported")
    command = [sys.executable, "-m", "export", "run", str(checkpoint), f"--repository={made}"]
    inside = _READ_ONLY if read_only else _with_tmp("1m")
    said = "name other folders: REPOSITORY=DIR, and TMPDIR=DIR" if read_only else "are free"
    return refused(row, [*inside, *command], said)


def full_later(repository: Path) -> Row:
    """The disk of a running server becomes full: it speaks, and comes back when there is room."""
    row = Row("disk that fills while serving, and a process dies", tries=6, limit_s=20)
    with served(repository, inside=_with_tmp("64m")) as world:
        disk = Path(f"/proc/{world.process.pid}/root/mnt")
        _fill(disk / "ballast")
        row.lost += sum(not world.speaks() for _ in range(5))
        begin = time.monotonic()
        os.kill(world.stubs()["fish_decoder_0_0"], signal.SIGKILL)
        more = 0
        # What the dead server held becomes free: either the next start takes it, or this does.
        while not world.says("No space left on device") and time.monotonic() < begin + 10:
            more += 1
            _fill(disk / f"ballast-{more}")
            time.sleep(0.02)
        row.notes.append(f"serve: {world.last_words()}")
        for ballast in disk.glob("ballast*"):
            ballast.unlink()
        row.recovery_s = since(world.speaks, time.monotonic(), 120)
    return row


def _fill(ballast: Path) -> None:
    """Write until nothing more fits."""
    with ballast.open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass


def _recorded(recording: Path, seconds: float) -> Path:
    noise = np.random.default_rng(0).normal(0, 0.1, int(44_100 * seconds))
    soundfile.write(recording, noise, 44_100)
    return recording


def small_shm(repository: Path, recording: Path) -> Row:
    """64 MB of /dev/shm, Docker's default: too large a recording fails alone, without names."""
    row = Row("64 MB of /dev/shm, recordings that do not fit", limit_s=5)
    _recorded(recording, 90)
    with served(repository, inside=_SMALL_SHM) as world:
        for _ in range(3):
            row.tries += 1
            row.notes.append(_told(world, recording))
            row.lost += "voicereel_" in row.notes[-1]
            row.lost += not world.speaks()
        row.lost += not world.says("/dev/shm has 64 MB")
        row.lost += not _ends(world, row)
    return row


def full_shm(repository: Path, recording: Path, streams: int = 4) -> Row:
    """/dev/shm fills while streams are spoken: each is told, and nothing of them stays."""
    row = Row(f"/dev/shm that fills under {streams} streams", streams, limit_s=20)
    with served(repository, inside=_SMALL_SHM) as world:
        listeners = [Listener(world, frames=200) for _ in range(streams)]
        for listener in listeners:
            listener.heard.wait(30)
        ballast = Path(f"/proc/{world.process.pid}/root/dev/shm/ballast")
        _fill(ballast)
        row.notes.append(_told(world, _recorded(recording, 10)))
        outcomes = [listener.join(30) for listener in listeners]
        row.lost += sum(outcome not in ("whole", "refused") for outcome in outcomes)
        row.notes.append(f"callers: {outcomes} {listeners[0].error[:120]}")
        ballast.unlink()
        row.recovery_s = since(world.speaks, time.monotonic(), 120)
        row.lost += since(lambda: _idle(world), time.monotonic(), 10) > 10
        row.lost += not _ends(world, row)
    return row


def _idle(world: World) -> bool:
    return world.metric("fish_llama_active_slots") == 0


def _ends(world: World, row: Row) -> bool:
    """Whether a stop finds nothing in flight any more."""
    begin = time.monotonic()
    world.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        world.process.wait(60)
    took = time.monotonic() - begin
    row.notes.append(f"a stop took {took:.1f} s, exit {world.process.returncode}")
    return world.process.returncode == 0 and took < 10  # 30: something is in flight for ever


def _told(world: World, recording: Path) -> str:
    try:
        with world.client(timeout_s=30, return_s=0) as client:
            client.encode_voice(recording, "Many words.", chunk_size_s=math.inf)
        return "encoded"
    except VoiceReelError as error:
        return f"{type(error).__name__}: {error}"[:200]
