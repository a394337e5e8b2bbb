"""Compiles the operators of `engine/kernels/native` for this machine, once, and loads them.

The result is kept in the user's cache, under a name made of everything that it depends on;
`python -m engine.kernels` compiles beforehand.
"""

import functools
import hashlib
import os
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch

from engine.kernels.cpu import instructions
from ensemble.contract import distribution

_SOURCES = Path(__file__).parent / "native"
_FLAGS = (
    *("-O3", "-march=native", "-mprefer-vector-width=512", "-std=c++20", "-fPIC", "-fopenmp"),
    # Sums may be reordered, so that vectors hold their parts, but infinity stays what it is: logits
    # are -inf where a token is forbidden. -ffast-math would take it for any number.
    *("-fassociative-math", "-freciprocal-math", "-fno-signed-zeros"),
    *("-fno-trapping-math", "-fno-math-errno"),
    # Products and sums are fused everywhere. Tuned for AMD, g++ fuses in some loops and not in
    # others, so that a row of attention was rounded differently in groups of 1, 2 and 4 rows.
    "--param=avoid-fma-max-bits=0",
    # Sums begin alike wherever they lie in memory.
    "--param=vect-max-peeling-for-alignment=0",
    "-fvisibility=hidden",
    *("-Wall", "-Wextra"),  # what they say is kept beside the library
)
# GCC 12 warns of its own header of AVX-512 intrinsics, which leaves a number as it is on purpose:
# https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
_FLAGS_OF_AVX512 = ("-Wno-maybe-uninitialized",)


@functools.cache
def fault() -> str | None:
    """Compile the operators where needed and load them; why they cannot be used, or None."""
    try:
        path = library()
        if not path.is_file():
            _compile(path)
        torch.ops.load_library(str(path))
    except FileNotFoundError:
        return f"there is no C++ compiler ({distribution.install('g++')})"
    except subprocess.CalledProcessError as error:
        return f"g++ failed: {error.stderr.strip().partition(chr(10))[0]}"
    except OSError as error:
        return str(error)
    return None


def library() -> Path:
    """Where the compiled operators are kept: by sources, flags, torch and instructions."""
    said = [path.read_text("utf-8") for path in sorted(_SOURCES.rglob("*.*"))]
    said += [*_FLAGS, version("torch"), *sorted(instructions())]
    digest = hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    if not os.access(home if home.exists() else home.parent, os.W_OK):
        home = Path(tempfile.gettempdir())
    return home / "voicereel-triton" / f"kernels-{digest}.so"


def _compile(path: Path) -> None:
    root = Path(torch.__file__).parent
    includes = (root / "include", root / "include" / "torch" / "csrc" / "api" / "include")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        finished = Path(folder) / path.name
        command = [
            *(os.environ.get("CXX", "g++"), *_FLAGS, f"-I{_SOURCES}"),
            *(_FLAGS_OF_AVX512 if "avx512f" in instructions() else ()),
            *(f"-isystem{i}" for i in includes),
            *("-shared", str(_SOURCES / "bindings" / "operators.cpp"), "-o", str(finished)),
            *(f"-L{root / 'lib'}", "-lgomp", "-lc10", "-ltorch_cpu"),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        warnings_of(path).write_text(done.stderr, "utf-8")
        finished.replace(path)


def warnings_of(path: Path) -> Path:
    """Where the compiler's warnings about a library are kept; an empty file if there were none."""
    return path.with_suffix(".log")
