"""Finds the `tritonserver` of this machine, and what it needs around it to run.

Two kinds exist: NVIDIA's image has one in /opt/tritonserver with native backends; elsewhere the
`nvidia-pytriton` wheel in the running Python carries the same server with a `python` backend
only, beside which `backends/onnxruntime` and `backends/pytorch` of this project are laid.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
OWN_BACKENDS = ("onnxruntime", "pytorch")


class LaunchError(RuntimeError):
    """Why the server could not be started, in one line that says what to do."""


@dataclass(frozen=True)
class Installation:
    """A tritonserver and the folders it reads.

    Attributes:
        binary: The executable.
        flags: Those that name its backend and cache folders.
        environment: Variables to set for it, beside the caller's.
    """

    binary: Path
    flags: tuple[str, ...]
    environment: dict[str, str]


def find(backends: Path) -> Installation:
    """Find a server: the system's if there is one, because its backends are native.

    Args:
        backends: Folder to lay the backends in, for a server from the wheel.

    Raises:
        LaunchError: If there is none, or Python is not fit for it.
    """
    system = Path("/opt/tritonserver/bin/tritonserver")
    if system.is_file() or (on_path := shutil.which("tritonserver")):
        binary = system if system.is_file() else Path(on_path or "").resolve()
        # Its stubs run the system's Python, whatever this one is.
        return Installation(binary, (), {"PYTHONPATH": _prepended("PYTHONPATH", PROJECT)})
    return _from_wheel(backends)


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
    _lay(backends / "python", [*(server / "backends" / "python").glob("*triton*"), stub])
    for name in OWN_BACKENDS:
        _lay(backends / name, [PROJECT / "backends" / name / "model.py"])
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


def _lay(backend: Path, files: list[Path]) -> None:
    """Copy 3 MB at each start, so never out of date: the server refuses links to elsewhere."""
    backend.mkdir(parents=True)
    for file in files:
        shutil.copy(file, backend)


def _libpython_folder() -> Path:
    """Where the stub finds libpython. Without it the server would hang at load for ever."""
    folder, library = (sysconfig.get_config_var(v) or "" for v in ("LIBDIR", "INSTSONAME"))
    try:
        ctypes.CDLL(str(Path(folder, library)) if Path(folder, library).is_file() else library)
    except OSError:
        raise LaunchError(
            f"{sys.executable} has no shared libpython, which Triton's Python backend needs. "
            f"Debian and Ubuntu: apt-get install libpython{platform.python_version()[:4]}"
        ) from None
    return Path(folder)


def _prepended(variable: str, *folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get(variable)])])
