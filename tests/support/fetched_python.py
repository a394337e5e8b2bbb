"""A stand-in for what uv downloads: this machine's Python 3.11, packed as uv expects it."""

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

RELEASES = "https://github.com/astral-sh/python-build-standalone/releases/download"
NAME = "cpython-3.11.18%2B20261110-x86_64-unknown-linux-gnu-install_only_stripped.tar.gz"


def pack(folder: Path, inside: str) -> dict[str, str]:
    """Write a mirror and a list of downloads into a folder; the variables with which uv uses them.

    Args:
        folder: Where to write.
        inside: The folder's path for uv.
    """
    prefix, python = Path(sys.base_prefix), folder / "python"
    for part in ("bin/python3.11", "lib/libpython3.11.so.1.0", "include/python3.11"):
        (python / part).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-a", prefix / part, python / part], check=True)
    skipped = shutil.ignore_patterns("site-packages", "__pycache__", "test", "*.a")
    shutil.copytree(prefix / "lib/python3.11", python / "lib/python3.11", ignore=skipped)
    for link in ("python", "python3"):
        (python / "bin" / link).symlink_to("python3.11")
    rpath = ["--set-rpath", "$ORIGIN/../lib", python / "bin" / "python3.11"]
    subprocess.run(["patchelf", *rpath], check=True)
    for said in (python / "lib/python3.11").glob("_sysconfigdata*.py"):
        said.write_text(said.read_text().replace(str(prefix), "/install"))  # as it was built
    archive = folder / "mirror" / "20261110" / NAME.replace("%2B", "+")
    archive.parent.mkdir(parents=True)
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        tar.add(python, "python")
    entry = {
        "name": "cpython", "arch": {"family": "x86_64", "variant": None}, "os": "linux",
        "libc": "gnu", "major": 3, "minor": 11, "patch": 18, "prerelease": "",
        "url": f"{RELEASES}/20261110/{NAME}", "variant": None, "build": "20261110",
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    }  # fmt: skip
    downloads = {"cpython-3.11.18-linux-x86_64-gnu": entry}
    (folder / "downloads.json").write_text(json.dumps(downloads))
    return {
        "UV_PYTHON_DOWNLOADS_JSON_URL": f"{inside}/downloads.json",
        "UV_PYTHON_INSTALL_MIRROR": f"file://{inside}/mirror",
    }
