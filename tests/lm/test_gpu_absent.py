"""A machine without a GPU: OpenAI's Triton, though installed, changes nothing there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU"),
]

SCRIPT = """
import json, sys
from pathlib import Path
from engine.kernels import build
from engine.lm import on_gpu
from engine.lm.load import load_runner
from engine.lm.placement import placement_for
from ensemble.contract.settings import server_settings

llama = load_runner(Path(sys.argv[1]), placement_for(server_settings({})))
print(json.dumps({
    "device": llama.device.type,
    "without": llama.why_no_kernels,
    "why": build.fault(),
    "triton": "triton" in sys.modules,
    "gpu": on_gpu.fault(),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("interpreted", [False, True])
def test_the_engine_takes_the_cpus_kernels(repository, interpreted) -> None:
    """It does not even import Triton; and a GPU's kernels, if asked for, say what is missing."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    if interpreted:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(repository / "fish_llama" / "1")],
        cwd=Path(__file__).resolve().parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["device"], said["triton"]) == ("cpu", False)
    assert (said["without"] or None) == said["why"]  # None, where there is a compiler
    assert "CUDA" in said["gpu"] or "NVIDIA" in said["gpu"]
