"""Which services of tritonserver are closed, and the key that opens them."""

import os
import secrets
from collections.abc import Collection
from pathlib import Path

from launch.run_folder import RunFolder
from launch.tritonserver import LaunchError

HEADER = "admin-key"  # the proxy's too; gRPC: triton-grpc-protocol-admin-key, as Triton demands
# Who may register shared memory reads and writes it, also regions of the server's own
# (CVE-2025-23319, 23320 and 23334 begin there); logging can be silenced, traces fill a disk.
CLOSED = ("shared-memory", "logging", "trace")
INNER = "inner"  # the models behind the front doors, which the proxy closes and Triton cannot
_KEY = "key"  # a file's name
_SHORTEST = 16  # characters of a key that nobody guesses


def opened(names: str) -> tuple[str, ...]:
    """The services that `--open` names, separated by commas.

    Raises:
        LaunchError: If there is no such service.
    """
    found = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in found:
        if name not in (*CLOSED, INNER):
            known = ", ".join((*CLOSED, INNER))
            raise LaunchError(f"--open {name}: expected some of {known}, joined by commas")
    return found


def flags(key: str, names: Collection[str] = ()) -> list[str]:
    """Arguments of a tritonserver that wants the key for these services.

    Args:
        key: The value of the header `HEADER`.
        names: Services that stay open.
    """
    closed = [name for name in CLOSED if name not in names]
    if not closed:
        return []
    wanted = f"{','.join(closed)}:{HEADER}={key}"
    return [f"--http-restricted-api={wanted}", f"--grpc-restricted-protocol={wanted}"]


def key_in(file: Path | None, folder: RunFolder) -> tuple[Path, str]:
    """The key of a file, or a new one in a file of mode 600 in a folder.

    Raises:
        LaunchError: If the file cannot be read, others may read it, or it holds no key.
    """
    if file is None:
        file = folder.path / _KEY
        write_key(folder.path, secrets.token_hex(32))
    try:
        key, mode = file.read_text("utf-8").strip(), file.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise LaunchError(f"--key-file {file}: {why}") from None
    if mode & 0o077:
        raise LaunchError(f"--key-file {file}: others may read it. Run: chmod 600 {file}")
    if len(key) < _SHORTEST or not key.isascii() or not key.isalnum():
        raise LaunchError(
            f"--key-file {file} has {len(key)} characters, expected {_SHORTEST} or more letters "
            f"and digits. Make one with: openssl rand -hex 32 > {file}"
        )
    return file, key


def made_key(folder: Path) -> str:
    """The key that `key_in` made there, or ""."""
    file = folder / _KEY
    return file.read_text("utf-8") if file.is_file() else ""


def write_key(folder: Path, key: str) -> None:
    """Write a key into a folder that has none."""
    descriptor = os.open(folder / _KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as new:  # nobody else reads it, ever
        new.write(key)


def forget(folder: Path) -> None:
    """Remove the key that `key_in` made there."""
    (folder / _KEY).unlink(missing_ok=True)
