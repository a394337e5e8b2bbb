"""Places for files: checked before the work, and replaced by another when one fails after it."""

import math
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from voicereel.errors import InvalidRequest


def open_file(path: str | os.PathLike[str], most_bytes: float = math.inf) -> BinaryIO:
    """Open a file to read; a pipe or a device is refused, where reading might never end.

    Args:
        path: The file.
        most_bytes: What it may have.

    Raises:
        InvalidRequest: If it is missing, no file, too large, or may not be read.
    """
    try:
        # Opening a pipe would wait for its writer.
        number = os.open(
            path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        )
        file = os.fdopen(number, "rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", error)
        raise InvalidRequest(f"cannot read {ascii(str(path))[1:-1]}: {reason}") from None
    found = os.fstat(number)
    problem = ""
    if not stat.S_ISREG(found.st_mode):
        problem = "it is a pipe, a device or a folder, expected a file. A pipe is read as -"
    elif found.st_size > most_bytes:
        problem = f"it has {found.st_size / 1e6:.1f} MB, expected at most {most_bytes / 1e6:.1f}"
    if problem:
        file.close()
        raise InvalidRequest(f"cannot read {path}: {problem}")
    return file


def check_place(path: str | os.PathLike[str], expected_bytes: int = 0) -> None:
    """Refuse a file that could not be written, and leave everything as it is.

    Args:
        path: The file; one that exists will be replaced.
        expected_bytes: What it will hold, about.

    Raises:
        InvalidRequest: If its folder is missing, it is a folder itself, may not be written, or has
            no room.
    """
    try:
        place = Path(os.path.realpath(path))
        if not place.parent.is_dir():
            raise InvalidRequest(
                f"cannot write {path}: there is no folder {place.parent}. Create it, or "
                "correct the name."
            )
        is_new = not place.exists()
        if is_new or place.is_file():  # to open a pipe would wait for its reader
            with place.open("xb" if is_new else "ab"):
                pass
            if is_new:
                place.unlink()
        elif place.is_dir():
            raise InvalidRequest(f"cannot write {path}: it is a folder, expected a file name")
        _check_room(path, place, expected_bytes)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidRequest(
            f"cannot write {path}: {getattr(error, 'strerror', error) or error}"
        ) from None


def _check_room(path: str | os.PathLike[str], place: Path, expected_bytes: int) -> None:
    free = free_bytes(place) + (place.stat().st_size if place.is_file() else 0)
    if free < expected_bytes:
        raise InvalidRequest(
            f"cannot write {path}: it needs about {expected_bytes / 1e6:.1f} MB, and "
            f"{free / 1e6:.1f} MB are free there. Make room, or write elsewhere."
        )


def free_bytes(place: Path) -> float:
    """Bytes that are free on the disk of a file; infinite if the file system does not know."""
    disk = shutil.disk_usage(place.parent)
    return disk.free if disk.total else math.inf


def check_different(outputs: Iterable[Path | None], inputs: Iterable[Path | None] = ()) -> None:
    """Refuse outputs that would overwrite each other, or what they are made from.

    Raises:
        InvalidRequest: If two are one file, whatever their names.
    """
    seen = {os.path.realpath(path): "is read too" for path in inputs if path}
    for path in filter(None, outputs):
        if why := seen.get(real := os.path.realpath(path)):
            raise InvalidRequest(f"cannot write {path}: the same file {why}. Give another name.")
        seen[real] = "is written twice"


def save_somewhere(save: Callable[[Path], None], path: Path, name: str = "") -> str:
    """Save what is finished in its place; if that fails, in another one.

    Args:
        save: Writes the file of a name.
        path: Its place.
        name: Of the file in another place; that of `path` if left out.

    Returns:
        "", or why its place failed and where the file is.

    Raises:
        BrokenPipeError: If nobody reads it any more.
    """
    try:
        save(path)
        return ""
    except BrokenPipeError:  # the reader of standard output wants no more
        raise
    except (InvalidRequest, OSError) as error:
        is_ours = isinstance(error, InvalidRequest)
        problem = str(error) if is_ours else f"cannot write {path}: {error.strerror}"
    for folder in dict.fromkeys([tempfile.gettempdir(), os.curdir, Path.home(), "/dev/shm"]):
        try:
            kept = Path(
                tempfile.mkdtemp(prefix="voicereel-", dir=folder), name or path.name
            ).resolve()
        except OSError:
            continue
        try:
            save(kept)
            return f"{problem}\nWhat was made is not lost: {kept}"
        except (InvalidRequest, OSError):
            shutil.rmtree(kept.parent, ignore_errors=True)
    return f"{problem}\nNo other folder took it either."
