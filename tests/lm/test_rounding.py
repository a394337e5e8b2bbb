"""What rounding does: against float32, in batches, and what the benchmark says of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from benchmarks.speed import precision
from engine.lm.linear import is_batch_invariant
from engine.lm.load import load_runner
from engine.lm.placement import Placement
from support.engine import needs_int8

pytestmark = pytest.mark.torch
CPU = torch.device("cpu")
FULL = Placement(CPU, torch.float32)
BF16 = Placement(CPU, torch.bfloat16)
INT8, INT4 = (Placement(CPU, torch.bfloat16, rounding=r) for r in ("int8", "int4"))
ROUNDED = [pytest.param(p, marks=needs_int8, id=p.rounding) for p in (INT8, INT4)]


@pytest.mark.parametrize(
    "placement", [pytest.param(FULL, id="fp32"), pytest.param(BF16, id="bf16"), *ROUNDED]
)
def test_a_row_is_bit_for_bit_the_same_in_any_batch(repository, placement) -> None:
    """Linears, attention, heads and the whole fast loop; observed, oneDNN does not promise it."""
    llama = load_runner(repository / "fish_llama" / "1", placement)
    assert llama.batch_invariant
    for batch in (2, 5, 16, 33):
        assert precision.differing_rows(llama, batch, 70) == {"slow": 0, "fast": 0}


def test_rounding_that_depends_on_the_batch_is_noticed() -> None:
    class Centred(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(dim=0)

    assert not is_batch_invariant(Centred(), 8, torch.zeros(()))
    assert is_batch_invariant(torch.nn.Identity(), 8, torch.zeros(()))


@pytest.mark.slow
@needs_int8
def test_errors_against_float32(repository) -> None:
    folder = repository / "fish_llama" / "1"
    exact, half, int8, int4 = (
        precision.teacher_forced(folder, placement) for placement in (FULL, BF16, INT8, INT4)
    )
    same = precision.errors(exact, exact)
    assert same["semantic"] == {"relative_error": 0.0, "kl": 0.0, "kl_max": 0.0, "top1": 1.0}
    assert exact.residual.shape[:2] == exact.slow.shape[:2] == (precision.FRAMES, precision.ROWS)
    for of in ("semantic", "residual"):
        rounded, eight, four = (precision.errors(f, exact)[of] for f in (half, int8, int4))
        assert 0 < rounded["relative_error"] < eight["relative_error"] < 0.2
        assert eight["relative_error"] < four["relative_error"] < 0.4
        assert 0 < rounded["kl"] < eight["kl"] < 0.1
        assert eight["top1"] > 0.6


@pytest.mark.slow
@pytest.mark.long
def test_the_benchmark_ends_in_one_json_line(tiny_checkpoint, repository) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.engine"),
            *("--checkpoint", tiny_checkpoint, "--repository", repository),
            *("--precision", "full", "--batches", "1,15", "--kvs", "40", "--rounds", "1"),
            *("--steps", "2", "--upstream-frames", "1", "--no-errors"),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for batch in (1, 15):
        cell = said["cells"][f"b{batch}_kv40"]
        assert said[f"b{batch}_frames_per_s"] == cell["frames_per_s"] > 0
        speedup = cell["frames_per_s"] / said["upstream_frames_per_s"]["as it is"]
        assert said[f"b{batch}_speedup"] == pytest.approx(speedup)
        assert said[f"b{batch}_bound_ratio"] == cell["bound_ratio"]
        assert set(cell["phase_ms"]) == {"decode_step", "sample", "fast_loop"}
        low, median, high = cell["ms_min_median_max"]
        assert 0 < low <= median <= high
    assert (said["precision"], said["dtype"]) == ("full", "fp32")
    assert said["machine"]
    assert said["commit"]
