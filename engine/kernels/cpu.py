"""What this machine's CPU can do."""

import platform
from pathlib import Path

# Families of instructions that a compiler may use when it is told -march=native.
_FAMILIES = ("amx", "avx", "bmi", "f16c", "fma", "gfni", "movbe", "sse4", "vaes", "vpclmul")


def instructions() -> set[str]:
    """The instructions that this CPU has beyond the base set, by Linux's names."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("flags"):
            return {f for f in line.partition(":")[2].split() if f.startswith(_FAMILIES)}
    return set()


def int8_fault() -> str | None:
    """Why this CPU cannot compute in 8 bits, or None. With AVX2 or better the sums are exact."""
    if "avx2" in instructions():
        return None
    return f"this CPU ({platform.machine()}) has no AVX2"
