"""Checks of the machine: interpreter, packages, server, GPU, compiler, shared memory, ports."""

import http.client
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ensemble.contract.settings import server_settings
from launch import compiler as launch_compiler
from launch import shared_memory as launch_shared_memory
from launch import tritonserver
from launch.doctor import Finding
from launch.run_folder import SHARED_MEMORY
from launch.tritonserver import PROJECT, LaunchError


def interpreter() -> Finding:
    """Check this Python, which the server's stubs run."""
    version = platform.python_version()
    if sys.version_info[:2] not in ((3, 11), (3, 12)):
        return Finding("interpreter", "broken", f"Python {version}, expected 3.11 or 3.12",
                       "PYTHON=python3.11 make setup")  # fmt: skip
    return Finding("interpreter", "ok", f"Python {version}, {sys.executable}")


def packages() -> Iterator[Finding]:
    """Compare installed and pinned versions; numpy apart, as no other message names numpy 2."""
    different = []
    for line in (PROJECT / "requirements" / "serve.txt").read_text("utf-8").splitlines():
        name, pinned, wanted = line.partition("==")
        if line.startswith("#") or not pinned:
            continue
        installed = _version(name)
        if name == "numpy":
            yield _numpy(installed, wanted)
        elif installed != wanted:
            different.append(f"{name} {installed} ({wanted})")
    if different:
        few = ", ".join(different[:3]) + (", ..." if len(different) > 3 else "")
        yield Finding("packages", "warning", f"not as pinned: {few}", "make setup")
    else:
        yield Finding("packages", "ok", "as pinned in requirements/serve.txt")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _numpy(installed: str, wanted: str) -> Finding:
    if installed == wanted:
        return Finding("numpy", "ok", installed)
    fix = f"{sys.executable} -m pip install numpy=={wanted}"
    if installed.startswith("1."):
        return Finding("numpy", "warning", f"{installed}, tested with {wanted}", fix)
    why = f"{installed}, expected {wanted}: with numpy 2 the server's outputs are empty"
    return Finding("numpy", "broken", why, fix)


def compiler() -> Finding:
    """Check that a CPU's kernels can be compiled."""
    try:
        settings = server_settings()
    except ValueError as error:
        return Finding("compiler", "broken", str(error), "set or unset this variable")
    if why := launch_compiler.missing(settings):
        return Finding("compiler", "warning", why, launch_compiler.remedy())
    return Finding("compiler", "ok", shutil.which(launch_compiler.NAME) or "none is needed")


def server() -> Finding:
    """Find a tritonserver, its stub for this Python, and libpython."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Finding("server", "ok", str(tritonserver.find(Path(folder, "backends")).binary))
        except (LaunchError, OSError) as error:
            return Finding("server", "broken", str(error), "make setup")


def gpu() -> Finding:
    """Check whether there is a GPU, and torch can use it."""
    asked = os.environ.get("FISH_SPEECH_DEVICE", "").strip().lower()
    smi = shutil.which("nvidia-smi")
    query = [smi or "", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    shown = subprocess.run(query, capture_output=True, text=True) if smi else None
    if not shown or shown.returncode:
        if asked == "cuda":
            return Finding("GPU", "broken", "FISH_SPEECH_DEVICE is cuda, and nvidia-smi finds none",
                           "unset FISH_SPEECH_DEVICE, or install NVIDIA's driver")  # fmt: skip
        return Finding("GPU", "ok", "none: speaks on the CPU")
    names = "; ".join(shown.stdout.split("\n")).strip("; ")
    sees = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if asked != "cpu" and subprocess.run([sys.executable, "-c", sees]).returncode:
        return Finding("GPU", "broken", f"{names}, but torch sees none: CPU build, or old driver",
                       "install torch with CUDA, or FISH_SPEECH_DEVICE=cpu")  # fmt: skip
    return Finding("GPU", "ok", names)


def shared_memory() -> Finding:
    """Check that /dev/shm has room."""
    if short := launch_shared_memory.shortage():
        return Finding("shared memory", "warning", short, launch_shared_memory.REMEDY)
    return Finding("shared memory", "ok", f"{SHARED_MEMORY} has room")


def ports(wanted: dict[str, int], address: str = "127.0.0.1") -> Finding:
    """Check that the ports are free, or that a tritonserver listens."""
    taken = {use: port for use, port in wanted.items() if not _is_free(address, port)}
    named = ", ".join(f"{port} ({use})" for use, port in (taken or wanted).items())
    if not taken:
        return Finding("ports", "ok", f"free: {named}")
    if _is_triton(address, wanted["http"]):
        return Finding("ports", "ok", f"a tritonserver listens: {named}")
    flags = " ".join(f"--{use}-port PORT" for use in taken)
    return Finding("ports", "broken", f"another program listens: {named}",
                   f"end it, or: voicereel serve {flags}")  # fmt: skip


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _is_triton(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=2)
    try:
        connection.request("GET", "/v2")
        return json.load(connection.getresponse()).get("name") == "triton"
    except (OSError, ValueError, AttributeError, http.client.HTTPException):
        return False
    finally:
        connection.close()
