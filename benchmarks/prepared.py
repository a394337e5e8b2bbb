"""A repository of a preset checkpoint, made when it is missing or older than the sources.

For the demo and the benchmarks; a real checkpoint is exported once, with `make export`.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("assets", "engine", "ensemble", "export", "families", "model_repository")
_SUFFIXES = (".py", ".pbtxt", ".pth")

console = Console(stderr=True)


def prepared(preset: str, name: str, *flags: str, int8: bool = False) -> tuple[Path, Path]:
    """Make `checkpoints/NAME` and `build/NAME-repository` if need be.

    Args:
        preset: Of `python -m export make-checkpoint`.
        name: What to call both.
        flags: More for make-checkpoint.
        int8: Whether the decoder is wanted in 8 bits as well.

    Returns:
        Both folders.

    Raises:
        subprocess.CalledProcessError: If that fails; what went wrong is on stderr.
    """
    checkpoint, repository = ROOT / "checkpoints" / name, ROOT / "build" / f"{name}-repository"
    stamp = repository.with_suffix(".stamp")  # hash of what the repository was made with, and how
    how = ["--compile", *(["--int8"] * int8)]
    wanted = " ".join([_hash_of_sources(), *how])
    made = stamp.read_text() if stamp.is_file() and repository.is_dir() else ""
    stale = not f"{made} ".startswith(f"{wanted} ")  # with more than is wanted it serves as well
    if stale and preset == "demo":  # its weights are among the sources
        shutil.rmtree(checkpoint, ignore_errors=True)
    if not checkpoint.is_dir():
        export_command("make-checkpoint", preset, "--out", checkpoint, "--seed", "0", *flags)
    if stale:
        stamp.unlink(missing_ok=True)
        export_command("run", checkpoint, "--repository", repository, *how)
        stamp.write_text(wanted)
    return checkpoint, repository


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
