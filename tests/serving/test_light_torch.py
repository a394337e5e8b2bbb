"""A process that serves imports torch without what only its compiler needs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PROJECT = Path(__file__).resolve().parents[2]
MODELS = ["model_repository/fish_llama/1/model.py", "backends/pytorch/model.py"]
IMPORTED = """
import sys
from pathlib import Path
from ensemble.serving import own_server
own_server.in_a_server = lambda: {inside}
from support.pb_utils_stand_in import load
load(Path({model!r}))
print("torch._prims" in sys.modules)
"""
AND_THEN = """
import torch, torch._meta_registrations
assert torch._meta_registrations.__file__ and "torch._prims" in sys.modules
import gc
assert gc.isenabled()
"""


def run(program: str) -> str:
    command = [sys.executable, "-c", program]
    environment = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}"}
    return subprocess.run(
        command, cwd=PROJECT, env=environment, check=True, capture_output=True, text=True
    ).stdout


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_the_light_one(model: str) -> None:
    assert run(IMPORTED.format(inside=True, model=model) + AND_THEN) == "False\n"


@pytest.mark.long
def test_elsewhere_it_is_whole() -> None:
    assert run(IMPORTED.format(inside=False, model=MODELS[0])) == "True\n"
