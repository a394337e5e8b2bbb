"""The native operators as a strict compiler and its sanitizers see them.

What is built is kept in build/, by sources and flags: a second run compiles nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from engine.kernels import build

pytestmark = [pytest.mark.torch, pytest.mark.slow]

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)

PROJECT = Path(__file__).resolve().parents[2]
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


def sanitized(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The operators, compiled to watch themselves."""
    monkeypatch.setattr(build, "_FLAGS", (*build._FLAGS, *SANITIZERS))
    monkeypatch.setenv("XDG_CACHE_HOME", str(PROJECT / "build" / "checked"))
    path = build.library()
    if not path.is_file():
        build._compile(path)
    return path


def test_no_flag_hides_a_warning_or_takes_infinity_for_a_number() -> None:
    hiding = {"-w", "-ffast-math", "-Ofast", "-ffinite-math-only", "-funsafe-math-optimizations"}
    assert not hiding & set(build._FLAGS)


def test_the_operators_compile_without_warnings() -> None:
    assert {"-Wall", "-Wextra"} <= set(build._FLAGS)
    assert build.warnings_of(build.library()).read_text("utf-8") == ""


def test_those_for_matrix_units_compile_without_warnings() -> None:
    """Also where this CPU has none: AVX-512, its 8-bit products, AMX."""
    root = Path(torch.__file__).parent / "include"
    includes = (f"-isystem{root}", f"-isystem{root / 'torch' / 'csrc' / 'api' / 'include'}")
    done = subprocess.run(
        [os.environ.get("CXX", "g++"), *build._FLAGS, "-march=sapphirerapids", "-Werror", *includes,
         f"-I{build._SOURCES}",
         "-fsyntax-only", str(build._SOURCES / "bindings" / "operators.cpp")],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if "sapphirerapids" in done.stderr and "-march" in done.stderr:
        pytest.skip("this compiler knows no AMX")
    assert not done.returncode, done.stderr


def assembly(march: str, source: str) -> str:
    """What the compiler makes of a function for another CPU."""
    command = [os.environ.get("CXX", "g++"), *build._FLAGS, f"-march={march}", "-Werror"]
    command += [f"-I{build._SOURCES}", "-S", "-xc++", "-", "-o", "-"]
    source = f'#include "simd/bytes.h"\nusing namespace voicereel;\n{source}'
    done = subprocess.run(command, input=source, capture_output=True, text=True)
    if "bad value" in done.stderr and march in done.stderr:
        pytest.skip(f"this compiler knows no {march}")
    assert not done.returncode, done.stderr
    return done.stdout.replace("\t", " ")


@pytest.mark.parametrize(
    ("march", "instruction"),
    [
        ("x86-64-v3", "vpmaddwd .*ymm"),
        ("alderlake", "vpdpbusd .*ymm"),
        ("skylake-avx512", "vpmaddwd .*zmm"),
    ],
)
def test_bytes_are_multiplied_by_what_a_cpu_has(march, instruction) -> None:
    found = assembly(
        march,
        "Ints f(Ints s, const uint8_t* x, const int8_t* w) { return with_products(s, x, w); }",
    )
    assert re.search(instruction, found)
    assert "vpmaddubsw" not in found  # it cuts sums off at 16 bits


@pytest.mark.parametrize(
    ("march", "instruction"),
    [
        ("x86-64-v3", "vpmaddubsw .*ymm"),
        ("alderlake", "vpdpbusd .*ymm"),
        ("skylake-avx512", "vpmaddubsw .*zmm"),
        ("icelake-server", "vpdpbusd .*zmm"),
    ],
)
def test_weights_of_4_bits_are_multiplied_by_what_a_cpu_has(march, instruction) -> None:
    found = assembly(
        march,
        """GroupSums f(GroupSums s, const int8_t* x, Words w) {
               return with_small_products(s, x, w);
           }""",
    )
    assert re.search(instruction, found)


def sanitizer(name: str) -> str:
    """Where the compiler keeps its library of this name; the name alone if it has none."""
    command = [os.environ.get("CXX", "g++"), f"-print-file-name={name}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_operators_stay_within_their_memory_and_the_language(monkeypatch) -> None:
    """Their tests pass under the address and the undefined-behaviour sanitizer."""
    libraries = [sanitizer("libasan.so"), sanitizer("libubsan.so")]
    if not all(Path(library).is_absolute() for library in libraries):
        pytest.skip("this compiler has no sanitizers")
    library = sanitized(monkeypatch)
    names = ("fused_transformer", "four_bits", "convolution", "native_numbers")
    tests = [f"tests/kernels/test_{name}.py" for name in names]
    # Those that are left out choose a library themselves, take the whole codec through, or ask for
    # products and sums that only the optimiser fuses.
    left = "not without and not in_one_pass and not same_bits"
    chosen = ["-k", left, "-p", "no:cacheprovider", "-qs", *tests]
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
