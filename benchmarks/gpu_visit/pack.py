"""Makes the pack: what a machine with Python and torch lacks, as wheels that travel well."""

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.gpu_visit.packages import LEFT_OUT, packed, pinned
from benchmarks.gpu_visit.unpack import MANIFEST, sha256
from benchmarks.gpu_visit.wheels import repacked

AIM_MIB = 60
SOURCES = ("antlr4-python3-runtime",)  # has no wheel; pure Python, so one made here serves
# What a machine with glibc 2.39 runs, and nvidia-pytriton needs no less than 2.35.
_PLATFORMS = ["any", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
_PLATFORMS += [f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)]


def make(folder: Path, python: str) -> int:
    """Make a pack and say how large it is and how a visit goes; the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.whl"), folder / MANIFEST):
        old.unlink(missing_ok=True)
    wanted = packed(pinned())
    with tempfile.TemporaryDirectory(dir=folder) as downloads:
        print(f"fetching {len(wanted)} packages for Python {python}", flush=True)
        fetch(wanted, Path(downloads), python)
        sources = sorted(Path(downloads).glob("*.whl"))
        print("repacking: some minutes", flush=True)
        with ThreadPoolExecutor() as pool:  # the compressor lets other threads run
            list(pool.map(lambda s: repacked(s, folder / s.name, python), sources))
    manifest = write_manifest(folder, python)
    for reason in dict.fromkeys(LEFT_OUT.values()):
        names = (name for name, why in LEFT_OUT.items() if why == reason)
        print(f"left out, {reason}: {', '.join(names)}")
    print(said(folder, manifest))
    return 0 if manifest["mib"] <= AIM_MIB else 1


def fetch(wanted: dict[str, str], folder: Path, python: str) -> None:
    """Bring the wheels of the packages, by name and version, of Linux on x86-64.

    Raises:
        subprocess.CalledProcessError: If pip cannot; it has said why.
    """
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    how = ["--no-deps", "--only-binary=:all:", "--python-version", python]
    how += ["--implementation", "cp", *(f"--platform={name}" for name in _PLATFORMS)]
    names = [f"{n}=={v}" for n, v in wanted.items() if n not in SOURCES]
    subprocess.run([*pip, "download", *how, "--dest", str(folder), *names], check=True)
    built = [f"{n}=={wanted[n]}" for n in SOURCES if n in wanted]
    how = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, "wheel", *how, *built], check=True)


def write_manifest(folder: Path, python: str) -> dict[str, Any]:
    """Write down what lies in a pack's folder."""
    packages = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        size = wheel.stat().st_size
        entry = {"name": name, "version": version, "file": wheel.name, "bytes": size}
        packages.append(entry | {"sha256": sha256(wheel)})
    manifest = {
        "python": python,
        "commit": machine.commit(),
        "mib": sum(p["bytes"] for p in packages) / 2**20,
        "packages": packages,
        "left_out": LEFT_OUT,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return manifest


def said(folder: Path, manifest: dict[str, Any]) -> str:
    """What to tell who made a pack."""
    largest = sorted(manifest["packages"], key=lambda p: -p["bytes"])[:5]
    sizes = ", ".join(f"{p['name']} {p['bytes'] / 2**20:.1f}" for p in largest)
    count, mib = len(manifest["packages"]), manifest["mib"]
    over = f" That is more than the {AIM_MIB} MiB that it should be." if mib > AIM_MIB else ""
    return (
        f"{folder}: {count} packages, {mib:.1f} MiB (MiB: {sizes}).{over}\n"
        "The visit, on a machine with a GPU, its driver, torch and Python "
        f"{manifest['python']}, from this checkout with that folder:\n"
        f"  python3 -m benchmarks.gpu_visit --pack {folder} --out DIR --minutes 9"
    )
