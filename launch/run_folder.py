"""Keeps a folder for each running server, and knows for certain which servers have ended.

The server process and its stubs inherit the lock on the folder's file `lock`, so the kernel
releases it when the last of them ends, however it ends. A folder whose lock is free belongs to a
server that has ended: it is removed, and with it the /dev/shm regions that carry its name.
"""

import fcntl
import os
import re
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


@dataclass
class RunFolder:
    """The folder of one server.

    Attributes:
        path: The folder.
        lock: File descriptor, to be inherited by the server.
    """

    path: Path
    lock: int

    @property
    def name(self) -> str:
        """A name unique on this machine; the names of the server's shared memory start with it."""
        return self.path.name

    @property
    def drain_pipe(self) -> Path:
        """A pipe: to open it tells the server's models to close the front doors.

        It is gone as soon as they have done so.
        """
        return self.path / "drain"

    def plain(self, repository: Path) -> Path:
        """A path of the repository that a shell takes as one word: itself, or a link to it.

        Triton 2.51 starts its stubs through a shell, without quotes; they end before they can say
        why, and the server waits for them.
        """
        if re.fullmatch(r"[\w./@%+=:,-]+", str(repository), re.ASCII):
            return repository
        link = self.path / "repository"
        link.symlink_to(repository)
        return link

    @classmethod
    def create(cls) -> "RunFolder":
        """Make a folder for a new server, and remove what ended servers left behind."""
        parent = Path(tempfile.gettempdir(), f"voicereel-{os.getuid()}")
        parent.mkdir(mode=0o700, exist_ok=True)
        starting = os.open(parent, os.O_RDONLY)
        try:  # one launch at a time: a folder whose lock is not held yet would look abandoned
            fcntl.flock(starting, fcntl.LOCK_EX)
            for folder in parent.iterdir():
                _remove_if_ended(folder)
            path = parent / f"voicereel_{secrets.token_hex(4)}"
            path.mkdir()
            return cls(path, _hold(path))
        finally:
            os.close(starting)

    def restore(self) -> None:
        """Make it again where something has cleared the folder for temporary files."""
        if not self.path.is_dir():
            self.release()
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            self.path.mkdir()
            self.lock = _hold(self.path)

    def release(self) -> None:
        """Leave the lock to the processes that inherited it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def abandon(self) -> None:
        """Remove the shared memory of an ended server; its log stays until the next start."""
        self.release()
        _remove_shared_memory(self.name)

    def remove(self) -> None:
        """Remove everything that an ended server left."""
        self.abandon()
        shutil.rmtree(self.path, ignore_errors=True)


def _hold(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _remove_if_ended(folder: Path) -> None:
    try:
        lock = _hold(folder)
    except OSError:
        return  # its server runs
    RunFolder(folder, lock).remove()


def _remove_shared_memory(prefix: str) -> None:
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
