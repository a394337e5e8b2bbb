"""A folder per running server, and the certain knowledge of which servers are gone.

The folder's `lock` is held by the server process and its stubs, which inherit it, so the kernel
lets it go when the last of them ends, however it ends. A folder whose lock is free is therefore a
dead server's: it is removed, and with it the /dev/shm regions that carry its name.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


@dataclass
class RunFolder:
    """What one server keeps on this machine while it runs.

    Attributes:
        path: The folder.
        lock: File descriptor, to be inherited by the server.
    """

    path: Path
    lock: int

    @property
    def name(self) -> str:
        """Unique on this machine; the server's shared-memory regions start with it."""
        return self.path.name

    @classmethod
    def create(cls) -> "RunFolder":
        """Make a folder for a new server, and remove what dead ones left behind."""
        parent = Path(tempfile.gettempdir(), f"voicereel-{os.getuid()}")
        parent.mkdir(mode=0o700, exist_ok=True)
        starting = os.open(parent, os.O_RDONLY)
        try:  # one at a time: a folder without its lock held would look dead
            fcntl.flock(starting, fcntl.LOCK_EX)
            for folder in parent.iterdir():
                _remove_if_dead(folder)
            path = parent / f"voicereel_{secrets.token_hex(4)}"
            path.mkdir()
            return cls(path, _hold(path))
        finally:
            os.close(starting)

    def let_go(self) -> None:
        """Leave the lock to those who inherited it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def abandon(self) -> None:
        """Remove a dead server's shared memory; its log stays until the next start."""
        self.let_go()
        _remove_shared_memory(self.name)

    def remove(self) -> None:
        """Remove everything of a dead server."""
        self.abandon()
        shutil.rmtree(self.path, ignore_errors=True)


def _hold(folder: Path) -> int:
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _remove_if_dead(folder: Path) -> None:
    try:
        lock = _hold(folder)
    except OSError:
        return  # it lives
    RunFolder(folder, lock).remove()


def _remove_shared_memory(prefix: str) -> None:
    for region in SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
