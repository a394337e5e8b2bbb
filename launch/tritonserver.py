"""Finds the `tritonserver` of this machine, and the folders and variables that it needs.

NVIDIA's image has one in /opt/tritonserver, with native backends. Elsewhere the `nvidia-pytriton`
wheel in the running Python carries the same server with a `python` backend only; this project's
`backends/onnxruntime` and `backends/pytorch` are copied beside that one.
"""

import importlib.util
import os
import secrets
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from ensemble.contract import distribution
from launch import interpreter

PROJECT = Path(__file__).resolve().parents[1]
OWN_BACKENDS = ("onnxruntime", "pytorch")


class LaunchError(RuntimeError):
    """The server could not be started; the message is one line that says why and what to do."""


@dataclass(frozen=True)
class Installation:
    """A tritonserver and the folders it reads.

    Attributes:
        binary: The executable.
        flags: Arguments that name its backend and cache folders.
        environment: Variables to set for it, in addition to the caller's.
    """

    binary: Path
    flags: tuple[str, ...]
    environment: dict[str, str]


def find(backends: Path) -> Installation:
    """Find a server; the system's goes first, because its backends are native.

    Args:
        backends: Folder to copy the backends into, for a server from the wheel.

    Raises:
        LaunchError: If there is none, or it does not support this Python.
    """
    if (binary := of_the_system()) is not None:
        # Its stubs run the system's Python, not this one.
        return Installation(binary, (), {"PYTHONPATH": _prepended("PYTHONPATH", PROJECT)})
    return _from_wheel(backends)


def of_the_system() -> Path | None:
    """The system's server, which has native backends."""
    installed = Path("/opt/tritonserver/bin/tritonserver")
    if installed.is_file():
        return installed
    on_path = shutil.which("tritonserver")
    return Path(on_path).resolve() if on_path else None


def own_control() -> list[str]:
    """Arguments of a server whose models may be unloaded by its own Python models only.

    Who can load a model runs code there. So the API wants a header that nobody can send: its value
    has a line break, and in gRPC no name has capital letters.
    """
    closed = f"model-repository:Closed=to\nall{secrets.token_hex(16)}"
    return [
        "--model-control-mode=explicit",
        "--load-model=*",
        f"--http-restricted-api={closed}",
        f"--grpc-restricted-protocol={closed}",
    ]


def _from_wheel(backends: Path) -> Installation:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(
            "no tritonserver: /opt/tritonserver/bin, PATH and the Python package nvidia-pytriton "
            "have none. Install it with: make setup"
        )
    package = Path(spec.submodule_search_locations[0])
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        known = sorted(p.name for p in stub.parents[1].iterdir())
        raise LaunchError(f"nvidia-pytriton serves Python {', '.join(known)}, not {version}")
    _copy(backends / "python", [*(server / "backends" / "python").glob("*triton*"), stub])
    for name in OWN_BACKENDS:
        _copy(backends / name, [PROJECT / "backends" / name / "model.py"])
    return Installation(
        server / "bin" / "tritonserver",
        (f"--backend-directory={backends}", f"--cache-directory={server / 'caches'}"),
        {
            "PATH": _prepended("PATH", Path(sys.prefix) / "bin"),  # so stubs run this Python
            "PYTHONPATH": _prepended("PYTHONPATH", PROJECT),
            "LD_LIBRARY_PATH": _prepended(
                "LD_LIBRARY_PATH", package.parent / "nvidia_pytriton.libs", _libpython_folder()
            ),
        },
    )


def _copy(backend: Path, files: list[Path]) -> None:
    """Copy a backend's files (3 MB) at each start; the server refuses links out of the folder."""
    backend.mkdir(parents=True)
    for file in files:
        shutil.copy(file, backend)


def _libpython_folder() -> Path:
    """The folder of libpython, which stubs load. Without it the server hangs while it loads."""
    if (library := interpreter.libpython()) is not None:
        return library.parent
    version = interpreter.VERSION
    if distribution.has_python(version):
        remedy = distribution.install(*interpreter.lacking())
    else:
        remedy = "make setup takes or fetches a Python that has one"
    raise LaunchError(
        f"{sys.executable} has no shared libpython, which Triton's Python backend needs; {remedy}"
    )


def _prepended(variable: str, *folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(variable)])])
