"""The kernels of a GPU are compiled for one that is not here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")
pytestmark = [pytest.mark.torch, pytest.mark.slow]
TESTS = Path(__file__).resolve().parents[1]
SHARED = {80: 163 << 10, 90: 227 << 10}  # bytes that a block of threads may have, by capability


@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.long), 90])
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
        assert each["shared"] <= SHARED[capability], each
        assert each["registers"] < 255, each
        assert each["stack"] <= 64, each  # more would be registers that are kept in memory
