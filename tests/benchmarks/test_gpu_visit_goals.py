"""The goals of a visit, and the table that says whether they are met."""

import pytest

from benchmarks.gpu_visit import report
from benchmarks.gpu_visit.goals import GOALS
from benchmarks.gpu_visit.results import Found
from benchmarks.gpu_visit.visit import Visit

KERNELS = {"noise": 1e-3, "precision": "fp16", "replayed": True, "batch": 1, "new": 8, "ms": 1.0,
           "rtf": 0.1, "ratio": 2.0}  # fmt: skip
STEP = {"precision": "half", "batch": 1, "step_ms": 2.5, "frames_per_s": 400.0, "ratio": 2.9}
FOUND: Found = {
    "serve": {"workload": {"wall_s": 0.51}, "streams": [{"streams": 16, "underruns": 2}]},
    "codec": {"kernels": [KERNELS]},
    "llama": {"steps": [STEP]},
}


def test_goals_are_met_or_not_or_not_measured() -> None:
    verdicts = {goal.name: goal.verdict(FOUND) for goal in GOALS}
    assert verdicts["decode step at 1, ms"] == (2.5, "not met")
    assert verdicts["step, times its bound, at 1"] == (2.9, "met")
    assert verdicts["frames/s at 64"] == (None, "not measured")
    assert verdicts["decoder, dB from float32"] == (pytest.approx(60), "met")
    assert verdicts["underruns, up to 64 streams"] == (2, "not met")
    assert verdicts["the brief's workload, s"] == (0.51, "not met")


def test_they_are_in_the_report(tmp_path) -> None:
    found: Found = {"codec": {"kernels": [KERNELS]}, "onnx": {"tensorrt": "lacks: tensorrt"}}
    text = report.tables(found, Visit(tmp_path, tmp_path, "cuda", False))
    assert "| decoder, dB from float32 | >= 40 | 60 | met |" in text
    assert "| audio s per s at 64 | >= 250 | – | not measured |" in text
    assert "| fp16 | True | 1 | 8 | 1 | 0.1 | 2 | 60 |" in text
    assert "| TensorRT | – | 1 | – | lacks: tensorrt | – | – | – |" in text
