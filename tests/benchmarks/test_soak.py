"""A soak notices memory that grows with every request, however little, and nothing else."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.soak import ALLOWED_BYTES, ROUNDS, grown, slope, soak
from launch.server import Server
from support.processes import megabytes

LEAK = 100_000  # bytes per request; the least that must be noticed
REQUESTS = 50  # in a round
LEAKING = f"""

class _Leaking(TritonPythonModel):
    kept = []

    def _answer(self, request):
        self.kept.append(np.ones({LEAK}, np.uint8))
        return super()._answer(request)


TritonPythonModel = _Leaking
"""


def memory(jumps: dict[int, float], per_round: float) -> float:
    """Growth per request that is found, of a process that also takes some memory in jumps."""
    samples = np.cumsum([1e9, *([per_round] * ROUNDS)])
    for at, jump in jumps.items():
        samples[at:] += jump
    taken = iter(samples)
    return grown(lambda: next(taken), lambda: None, REQUESTS)


JUMPS = [{}, {1: 60e6}, {3: 60e6}, {6: 60e6}, {1: 60e6, 5: -60e6}, {2: 9e6, 3: -9e6}]


@pytest.mark.parametrize("jumps", JUMPS, ids=str)
def test_a_jump_is_no_leak_and_hides_none(jumps) -> None:
    assert memory(jumps, 0.0) < ALLOWED_BYTES
    assert memory(jumps, LEAK * REQUESTS) > ALLOWED_BYTES


def test_a_leak_is_found_to_the_byte() -> None:
    assert memory({}, LEAK * REQUESTS) == pytest.approx(LEAK)
    assert slope([0, 2, 4, 60, 62, 64, 66]) == 2.0  # one jump
    assert slope([0, 9, 2, 11, 4, 13, 6]) == 1.0  # up and down


def test_what_passes_is_well_below_100_kb_per_request() -> None:
    assert ALLOWED_BYTES <= 50_000
    assert ROUNDS >= 6  # fewer, and one jump of an allocator decides


@pytest.mark.server
@pytest.mark.long
def test_a_leak_of_100_kb_per_request_fails(repository: Path, tmp_path: Path) -> None:
    """Planted in the lightest stage, which every request passes once."""
    copy = tmp_path / "repository"
    shutil.copytree(repository, copy, symlinks=True)
    model = copy / "fish_prompt" / "1" / "model.py"
    model.write_text(model.read_text() + LEAKING)
    models = ["fish_tts_stream", "fish_tts"]
    with Server(copy, log_path=tmp_path / "log") as server:
        growth = grown(
            lambda: 1e6 * megabytes(server.pid),
            lambda: soak(server.grpc_url, models, REQUESTS, 16, 0.2),
            REQUESTS,
            settling=1,
        )
    assert growth > ALLOWED_BYTES
