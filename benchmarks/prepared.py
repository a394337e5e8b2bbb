"""What is measured: repositories of preset checkpoints, and a server on one.

A repository is made when it is missing or older than the sources. A real checkpoint is exported
once, with `make export`.
"""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from benchmarks.report import console
from ensemble.contract.settings import ROUNDINGS, server_settings
from launch import compiler
from launch.server import Server
from voicereel import Client

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("assets", "engine", "ensemble", "export", "families", "model_repository")
_SUFFIXES = (".py", ".pbtxt", ".pth")
PATIENCE_S = 600  # for loading, and for one request: full size beside other jobs takes minutes


def prepared(preset: str, name: str, *flags: str, int8: bool = False) -> tuple[Path, Path]:
    """Make `checkpoints/NAME` and `build/NAME-repository` if need be.

    Args:
        preset: Preset of `python -m export make-checkpoint`.
        name: Name of both folders.
        flags: Further options of make-checkpoint.
        int8: Whether to export the decoder in 8 bits as well.

    Returns:
        Folder of the checkpoint, and folder of the repository.

    Raises:
        subprocess.CalledProcessError: If a command fails; what went wrong is on stderr.
    """
    checkpoint, repository = ROOT / "checkpoints" / name, ROOT / "build" / f"{name}-repository"
    stamp = repository.with_suffix(".stamp")  # hash of what the repository was made with, and how
    how = ["--compile", *(["--int8"] * int8)]
    repository.parent.mkdir(exist_ok=True)
    with repository.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another command may be making the same
        # Without a compiler the export has no kernels: once there is one, it is made again.
        without = "-without-compiler" if compiler.missing(server_settings()) else ""
        wanted = " ".join([_hash_of_sources() + without, *how])
        made = stamp.read_text() if stamp.is_file() and repository.is_dir() else ""
        stale = not f"{made} ".startswith(f"{wanted} ")  # one with int8 also serves without
        if stale and preset in ("demo", "s2-demo"):  # their weights are among the sources
            shutil.rmtree(checkpoint, ignore_errors=True)
        if not checkpoint.is_dir():
            export_command("make-checkpoint", preset, "--out", checkpoint, "--seed", "0", *flags)
        if stale:
            stamp.unlink(missing_ok=True)
            export_command("run", checkpoint, "--repository", repository, *how)
            stamp.write_text(wanted)
    return checkpoint, repository


def endless(quick: bool, precision: str = "half") -> tuple[Path, Path]:
    """Random weights that speak until `max_new_tokens`: S1-mini's shape, or the tiny one.

    Args:
        quick: Whether the tiny shape will do.
        precision: A FISH_SPEECH_PRECISION; with int8 or int4 the decoder is exported in 8
            bits as well.

    Returns:
        Folder of the checkpoint, and folder of the repository.
    """
    preset = "tiny" if quick else "s1mini"
    return prepared(preset, f"{preset}-endless", "--endless", int8=precision in ROUNDINGS)


def named_or_endless(
    checkpoint: Path | None, repository: Path | None, quick: bool, precision: str
) -> tuple[Path, Path]:
    """The two folders that the caller names, or those of `endless` if it names neither.

    Raises:
        typer.BadParameter: If it names only one.
    """
    if checkpoint is not None and repository is not None:
        return checkpoint, repository
    if checkpoint is None and repository is None:
        return endless(quick, precision)
    raise typer.BadParameter(
        "--checkpoint and --repository belong together: the checkpoint is what upstream runs, the "
        "repository is the same one exported (make export CHECKPOINT=DIR REPOSITORY=DIR). Give "
        "both, or neither for random weights"
    )


@contextlib.contextmanager
def served(
    repository: Path, environment: dict[str, str] | None = None, log_path: Path | None = None
) -> Iterator[tuple[Server, Client]]:
    """A server on a repository, with these variables in its environment, and a client of it."""
    with (
        Server(
            repository, environment=environment, deadline_s=PATIENCE_S, log_path=log_path
        ) as server,
        Client(server.grpc_url, timeout_s=PATIENCE_S) as client,
    ):
        yield server, client


def export_command(*arguments: str | Path) -> None:
    """Run `python -m export ...`; what it prints goes to stderr."""
    command = [sys.executable, "-m", "export", *map(str, arguments)]
    console.print("+", *command[1:])
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    paths = (p for folder in SOURCES for p in (ROOT / folder).rglob("*"))
    for path in sorted(p for p in paths if p.suffix in _SUFFIXES):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()
