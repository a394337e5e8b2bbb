"""Unpacks a pack into an environment of its own, with nothing but Python's own library.

It is a virtual environment, because Triton's stubs find their packages by the interpreter alone
and ignore PYTHONPATH. Its packages come before the machine's own, which it sees as well: torch is
among those.
"""

import hashlib
import json
import sys
import venv
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = "manifest.json"
_SITE = ("site-packages", "dist-packages")


class PackError(RuntimeError):
    """A pack that cannot be used here; the message says what to do."""


def read_manifest(pack: Path) -> dict[str, Any]:
    """What a pack says of itself.

    Returns:
        `python`, `commit`, `packages` (name, version, file, bytes, sha256) and `left_out`.

    Raises:
        PackError: If there is none, or it is for another Python.
    """
    path = pack / MANIFEST
    if not path.is_file():
        raise PackError(f"{path} is missing. Make the pack with: make gpu-visit")
    manifest = json.loads(path.read_text("utf-8"))
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest["python"] != here:
        raise PackError(
            f"{pack} is for Python {manifest['python']}, this is {here}. Make another with: "
            f"python -m benchmarks.gpu_visit --pack DIR --python {here}"
        )
    return manifest


def unpack(pack: Path, folder: Path) -> tuple[str, str]:
    """Make the environment.

    Args:
        pack: The pack's folder.
        folder: Where to; made here.

    Returns:
        Its interpreter, and the commit that the pack was made of.

    Raises:
        PackError: If the pack is damaged or not for this Python.
    """
    manifest = read_manifest(pack)
    venv.EnvBuilder(symlinks=True).create(folder)
    site = folder / "lib" / f"python{manifest['python']}" / "site-packages"
    for package in manifest["packages"]:
        wheel = pack / package["file"]
        if not wheel.is_file() or sha256(wheel) != package["sha256"]:
            raise PackError(f"{wheel} is missing or damaged. Make the pack anew: make gpu-visit")
        _extract(wheel, site)
    # By `addsitedir`, so that what is installed there as a link is found too.
    machine = [p for p in sys.path if PurePosixPath(p).name in _SITE]
    lines = [f"import site; site.addsitedir({path!r})" for path in machine]
    (site / "machine.pth").write_text("\n".join(lines) + "\n", "utf-8")
    return str(folder / "bin" / "python3"), manifest["commit"]


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _extract(wheel: Path, site: Path) -> None:
    """Put a wheel's files where pip would; programs stay executable."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            parts = PurePosixPath(entry.filename).parts
            if parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if entry.is_dir() or ".." in parts:
                continue
            target = site.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))
            if (entry.external_attr >> 16) & 0o111:
                target.chmod(0o755)
