"""The kernels of a GPU are compiled for one that is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
from engine.lm.on_gpu import SHARED_BYTES, lack_of

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "capability", [*(pytest.param(n, marks=pytest.mark.long) for n in (80, 89)), 90]
)
def test_every_kernel_is_compiled_and_fits(capability, tmp_path) -> None:
    path = os.pathsep.join(map(str, (TESTS, TESTS.parent)))
    environment = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "support.gpu_compiled", str(capability)],
        env={**os.environ, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert {each["kernel"] for each in made} == {
        "_project", "_attend_one", "_attend", "_join", "_place", "_add_norm", "_gated", "_sample",
        "_convolve", "_embed",
    }  # fmt: skip
    for each in made:
        assert each["shared"] <= SHARED_BYTES, each
        assert each["registers"] < 255, each
        assert each["stack"] <= 64, each  # more would be registers that are kept in memory


def test_a_gpu_with_too_little_shared_memory_is_served_without_kernels() -> None:
    """By what their makers say they have, as torch names it."""
    found = {
        name: lack_of(SimpleNamespace(name=name, shared_memory_per_multiprocessor=kib << 10))
        for name, kib in {"T4": 64, "V100": 96, "RTX 4090": 100, "A100": 164, "H100": 228}.items()
    }
    assert {name for name, lack in found.items() if lack} == {"T4", "V100"}
    assert "of T4 has 65536 bytes" in found["T4"]
