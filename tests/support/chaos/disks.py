"""Disks, shared memory, ports and artefacts that are not as they should be: what `serve` says."""

import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from launch.run_folder import SHARED_MEMORY
from support.chaos.world import Row, World
from support.launched import PROJECT, ready
from voicereel import VoiceReelError

_START_S = 240
_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
# A mount namespace of its own: nobody else sees these mounts.
_NAMESPACE = ("unshare", "-m", "sh", "-c")


def can_mount() -> str:
    """Why this process can make no mount namespace; "" if it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    done = subprocess.run([*_NAMESPACE, "mount -t tmpfs none /mnt"], capture_output=True, text=True)
    return done.stderr.strip()


def _refused(row: Row, command: Sequence[str], expected: str, **how) -> Row:
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
    row = _refused(
        Row("second server on the same ports"),
        serve_command(repository, f"--http-port={port}"),
        "Address already in use",
    )
    row.lost += not world.speaks()
    return row


def full_disk(repository: Path, size: str = "1m") -> Row:
    """The folder for temporary files is full."""
    row = Row("full disk at the start")
    script = f'mount -t tmpfs -o size={size} none /mnt && TMPDIR=/mnt exec "$@"'
    command = [*_NAMESPACE, script, "sh", *serve_command(repository)]
    return _refused(row, command, "No space left on device")


def read_only_disk(repository: Path) -> Row:
    """Every folder for temporary files can only be read."""
    row = Row("read-only disk at the start")
    script = (
        "for f in /tmp /var/tmp; do mount -t tmpfs -o ro none $f; done; "
        'mount --bind "$PWD" "$PWD" && mount -o remount,ro,bind "$PWD" && cd "$PWD" && exec "$@"'
    )
    command = [*_NAMESPACE, script, "sh", *serve_command(repository)]
    return _refused(row, command, "No usable temporary directory")


def small_shm(repository: Path, recording: Path) -> Row:
    """64 MB of /dev/shm, Docker's default: too large a recording fails alone, without names."""
    row = Row("64 MB of /dev/shm, recordings that do not fit", limit_s=5)
    script = 'mount -t tmpfs -o size=64m none /dev/shm && exec "$@"'
    command = [*_NAMESPACE, script, "sh", *serve_command(repository)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=PROJECT, **pipes) as process:
        try:
            world = World(process, ready(process))
            soundfile.write(recording, np.random.default_rng(0).normal(0, 0.1, 44_100 * 90), 44_100)
            for _ in range(3):
                row.tries += 1
                row.notes.append(_told(world, recording))
                row.lost += "voicereel_" in row.notes[-1]
                row.lost += not world.speaks()
            row.lost += not any("/dev/shm has 64 MB" in line for line in world.said)
        finally:
            process.terminate()
            process.wait(60)
    return row


def _told(world: World, recording: Path) -> str:
    try:
        with world.client(timeout_s=60) as client:
            client.encode_voice(recording, "Many words.", chunk_size_s=math.inf)
        return "encoded"
    except VoiceReelError as error:
        return f"{type(error).__name__}: {error}"[:200]


def artefact(repository: Path, folder: Path, spoilt: str) -> Row:
    """An artefact that is cut short, or another model's, is refused at the start."""
    row = Row(f"{spoilt} artefact")
    copy = folder / f"{spoilt}-repository"
    shutil.copytree(repository, copy)
    file = next((copy / "fish_llama/1").glob("llama.*"))
    if spoilt == "truncated":
        os.truncate(file, file.stat().st_size // 2)
    else:
        shutil.copy(next((copy / "fish_decoder/1").glob("model.*")), file)
    return _refused(row, serve_command(copy), "fish_llama")
