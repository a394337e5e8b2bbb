"""The native operators as a strict compiler and its sanitizers see them.

What is built is kept in build/, by sources and flags: a second run compiles nothing.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.kernels import build, cpu

pytestmark = [pytest.mark.torch, pytest.mark.slow]

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)

PROJECT = Path(__file__).resolve().parents[2]
STRICT = ("-Wall", "-Wextra", "-Werror")
# GCC 12 warns of its own header of AVX-512 intrinsics, which leaves a number as it is on purpose:
# https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105593
IN_GCC = ("-Wno-maybe-uninitialized",)
SANITIZERS = (
    *("-O1", "-g1", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
# Runs tests with a library in place of the one that `build.fault` would compile.
RUN = """
import functools, sys
import pytest, torch
torch.ops.load_library(sys.argv[1])
from engine.kernels import build
build.fault = functools.cache(lambda: None)
sys.exit(pytest.main(sys.argv[2:]))
"""


def built(monkeypatch: pytest.MonkeyPatch, *flags: str) -> Path:
    """Compile the operators with more flags, and without warnings."""
    if "avx512f" in cpu.instructions():
        flags = *flags, *IN_GCC
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, *STRICT, *flags))
    monkeypatch.setenv("XDG_CACHE_HOME", str(PROJECT / "build" / "checked"))
    path = build.library()
    if not path.is_file():
        try:
            build._compile(path)
        except subprocess.CalledProcessError as error:
            pytest.fail(error.stderr, pytrace=False)
    return path


def test_no_flag_hides_a_warning_or_takes_infinity_for_a_number() -> None:
    hiding = {"-w", "-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"}
    assert not hiding & set(build._FLAGS)


def test_the_operators_compile_without_warnings(monkeypatch) -> None:
    assert built(monkeypatch).is_file()


def test_those_for_matrix_units_compile_without_warnings() -> None:
    """Also where this CPU has none: AVX-512, its 8-bit products, AMX."""
    root = Path(torch.__file__).parent / "include"
    includes = (f"-isystem{root}", f"-isystem{root / 'torch' / 'csrc' / 'api' / 'include'}")
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), *build._FLAGS, "-march=sapphirerapids", *STRICT, *includes,
         f"-I{build._SOURCES}",
         "-fsyntax-only", str(build._SOURCES / "bindings" / "operators.cpp")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if "sapphirerapids" in done.stderr and "-march" in done.stderr:
        pytest.skip("this compiler knows no AMX")
    assert not done.returncode, done.stderr


def sanitizer(name: str) -> str:
    """Where the compiler keeps its library of this name; the name alone if it has none."""
    command = [os.environ.get("CXX", "g++"), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_operators_stay_within_their_memory_and_the_language(monkeypatch) -> None:
    """Their tests pass under the address and the undefined-behaviour sanitizer."""
    libraries = [sanitizer("libasan.so"), sanitizer("libubsan.so")]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("this compiler has no sanitizers")
    library = built(monkeypatch, *SANITIZERS)
    names = ("fused_transformer", "convolution", "native_numbers")
    tests = [f"tests/kernels/test_{name}.py" for name in names]
    # Those that are left out choose a library themselves, or take the whole codec through.
    chosen = ["-k", "not without and not in_one_pass", "-p", "no:cacheprovider", "-qs", *tests]
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(library), *chosen],
        cwd=PROJECT,
        env={
            **os.environ,
            "LD_PRELOAD": ":".join(libraries),
            # Python never frees all that it has.
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "2",
        },
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stdout[-4000:] + done.stderr[-8000:]
    assert " passed" in done.stdout
