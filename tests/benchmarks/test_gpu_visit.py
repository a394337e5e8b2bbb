"""A whole GPU visit on the CPU at tiny size: the same code path, and nothing is left behind."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import first_audio
from benchmarks.answers import Answer
from benchmarks.gpu_visit import step_exact, step_onnx, step_serve
from benchmarks.gpu_visit.goals import GOALS
from benchmarks.gpu_visit.results import OUTCOME, read
from benchmarks.gpu_visit.steps import STEPS
from benchmarks.gpu_visit.visit import Skipped
from benchmarks.server_stats import ModelStats, Snapshot
from benchmarks.workload import FRAMES, TEXTS

pytestmark = [pytest.mark.torch, pytest.mark.server, pytest.mark.slow]
PROJECT = Path(__file__).resolve().parents[2]
FRAME_S = 2048 / 44100
MARK = "GPU_VISIT_OF_THIS_TEST"
STEPS_HERE = [step.name for step in STEPS if step.name != "onnx"]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("visit")


@pytest.fixture(scope="module")
def said(out) -> str:
    """Stdout of the visit."""
    return visited(out, STEPS_HERE)


def visited(out: Path, steps: list[str]) -> str:
    """Stdout of a visit. More minutes than it needs: other work may be on these cores."""
    command = [sys.executable, "-m", "benchmarks.gpu_visit", "--device", "cpu", "--tiny"]
    done = subprocess.run(
        [*command, "--out", str(out), "--minutes", "30", "--only", ",".join(steps)],
        cwd=PROJECT,
        env={**os.environ, MARK: str(out)},
        capture_output=True,
        text=True,
    )
    log = out / "log.txt"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.is_file() else "")
    return done.stdout


@pytest.fixture(scope="module")
def found(said, out) -> dict[str, dict[str, Any]]:
    return read(out)


def test_every_step_is_taken_in_order(found, out) -> None:
    assert list(found) == STEPS_HERE
    outcomes = {name: values[OUTCOME]["state"] for name, values in found.items()}
    assert set(outcomes.values()) == {"done"}, (out / "log.txt").read_text()[-4000:]


def test_no_process_is_left(found, out) -> None:
    left = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={out}".encode() in (folder / "environ").read_bytes():
                left.append((folder / "cmdline").read_text())
        except OSError:
            continue
    assert left == []


def test_the_machine_is_named_and_measured(found) -> None:
    card = found["card"]
    assert card["versions"]["numpy"] == "1.26.4"
    assert card["commit"]
    assert card["rates"]["tflops"].keys() == {"bf16", "fp16", "fp32"}
    assert min(card["rates"]["read_gb_per_s"], *card["rates"]["tflops"].values()) > 0


def test_what_needs_a_gpu_says_so(found) -> None:
    tests = found["tests"]
    if not tests["passed"]:  # with a GPU they run here too
        files = ("lm.test_gpu", "kernels.test_gpu_step", "kernels.test_gpu_codec")
        names = {f"tests.{file}" for file in files}
        assert (tests["failed"], tests["skipped"].keys()) == ({}, names)
        assert all("needs a GPU" in why for why in tests["skipped"].values())


def test_the_codec_is_exact(found) -> None:
    differences = found["exact"]["differences"]
    assert differences.keys() == step_exact.LIMITS.keys()
    assert found["exact"]["exact"] is True
    assert 0 < differences["audio_windows_vs_whole"] <= 1e-4
    assert differences["codes_pieces_vs_whole"] == 0


def test_the_workload_is_spoken_in_full(found) -> None:
    spoken_in_full(found["serve"])


@pytest.mark.long
def test_the_workload_is_spoken_in_full_by_onnx(tmp_path) -> None:
    visited(tmp_path, ["export", "onnx"])
    found = read(tmp_path)["onnx"]
    spoken_in_full(found)
    assert found["tensorrt"] == "lacks: tensorrt"


def spoken_in_full(step: dict[str, Any]) -> None:
    work = step["workload"]
    assert work["audio_s"] == pytest.approx(len(TEXTS) * FRAMES * FRAME_S)
    assert work["rtf"] == pytest.approx(work["wall_s"] / work["audio_s"])
    assert work["stages_s"]["codec"] > 0
    windows = sum(int(size) * n for size, n in work["batches"]["fish_decoder"].items())
    assert windows == len(TEXTS)  # the unary front door takes each segment in one
    assert work["batches"]["fish_encoder"] == {}  # the voices were encoded before


def test_streams_are_heard_by_every_listener(found) -> None:
    rows = found["serve"]["streams"]
    assert [row["streams"] for row in rows] == list(step_serve.TINY.callers)
    for row in rows:
        assert row["audio_s"] == pytest.approx(row["streams"] * step_serve.TINY.frames * FRAME_S)
        assert row["audio_s_per_s"] == pytest.approx(row["audio_s"] / row["wall_s"])
        assert 0 < row["ttfa_s_p50"] <= row["ttfa_s_p95"] < row["wall_s"]
        assert 1 <= row["llama_batch"] <= row["streams"]


def test_steps_are_held_against_what_they_must_read(found) -> None:
    steps = found["llama"]["steps"]
    assert [(row["precision"], row["batch"]) for row in steps] == [
        ("half", 1), ("half", 2), ("full", 1)
    ]  # fmt: skip
    for row in steps:
        assert row["frames_per_s"] == pytest.approx(1e3 * row["batch"] / row["step_ms"])
        assert row["ratio"] == pytest.approx(row["step_ms"] / row["bound_ms"])
        assert row["phase_ms"].keys() >= {"decode_step", "fast_loop", "sample"}
    assert [row["positions"] for row in found["llama"]["prefill"]] == [64, 64]


def test_windows_and_recordings_are_timed(found) -> None:
    windows = [(r["history"], r["new"], r["batch"]) for r in found["codec"]["decode"]]
    assert windows == [(0, 8, 1), (0, 8, 2), (16, 8, 1), (16, 8, 2)]
    for row in (*found["codec"]["decode"], *found["codec"]["encode"]):
        audio_s = row["batch"] * row["new"] * FRAME_S
        assert row["rtf"] == pytest.approx(row["ms"] / 1e3 / audio_s)
        assert row["ratio"] > 0


def test_the_decoder_by_kernels_is_tried_in_every_precision(found) -> None:
    rows = found["codec"]["kernels"]
    assert [row["precision"] for row in rows] == ["fp16", "fp16, sums of three", "bf16"]
    assert rows[1]["noise"] < 1e-4 < rows[0]["noise"] < rows[2]["noise"] < 0.2
    assert all(row["ms"] > 0 and not row["replayed"] for row in rows)  # replayed on a GPU alone


def test_the_way_to_the_first_audio_is_taken_apart(found) -> None:
    way = found["serve"]["first_audio"]
    *hops, whole, _ = way
    assert tuple(hops) == first_audio.HOPS
    assert sum(way[hop] for hop in hops) == pytest.approx(way[whole])
    assert min(way[hop] for hop in ("prompt", "prefill", "first frames", "decode")) > 0


def test_the_slowest_kernels_come_first(found) -> None:
    for name in ("decode_step_batch_1", "codec_window_8", "codec_window_8_by_kernels"):
        times = [row["ms"] for row in found["kernels"][name]]
        assert len(times) == 3
        assert times == sorted(times, reverse=True)
        assert 0 < sum(row["share"] for row in found["kernels"][name]) <= 1


def test_the_report_is_made_of_the_results(said, found, out) -> None:
    line = json.loads(said.splitlines()[-1])
    assert line == json.loads((out / "visit.json").read_text())
    assert line["workload_wall_s"] == found["serve"]["workload"]["wall_s"]
    assert line["goals"].keys() == {goal.name for goal in GOALS}
    assert line["goals"]["audio s per s at 64"] == "not measured"
    assert line["step_ms"]["half_b1"] == found["llama"]["steps"][0]["step_ms"]
    text = (out / "gpu.md").read_text()
    assert text in said
    sections = [part.splitlines()[0] for part in text.split("## ")[1:]]
    assert sections[:2] == ["Goals", "Tests"]
    assert sections[2:] == [
        "How exact the codec is", "The brief's workload", "Streams side by side",
        "The way to the first audio", "A step of the LLaMA stage", "Prefill", "The codec",
        "The decoder by kernels", "The slowest kernels",
    ]  # fmt: skip
    assert (out / "visit.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list(out.iterdir())) <= 8  # what comes back from such a machine may be few files


def test_a_listener_who_waits_is_counted(monkeypatch) -> None:
    """Two callers, one of whom runs dry for half a second."""
    answers = [
        Answer(10.0, (0.2, 0.4), (1.0, 1.0), "length"),
        Answer(10.0, (0.3, 1.8), (1.0, 1.0), "length"),
    ]
    used = Snapshot(
        defaultdict(ModelStats, {
            "fish_decoder": ModelStats(4, 3, batches=Counter({1: 2, 2: 1})),
        }),
        defaultdict(float, {
            "fish_llama_frames_total": 86, 'fish_llama_steps_total{batch="2"}': 43,
        }),
    )  # fmt: skip
    moments = iter((Snapshot(), used))
    monkeypatch.setattr(step_serve, "snapshot", lambda server: next(moments))

    class Callers:
        count = 2

        def run(self, client: Any) -> list[Answer]:
            return answers

    row = step_serve.streams(None, None, Callers())  # type: ignore[arg-type]
    assert (row["underruns"], row["interrupted"]) == (1, 1)
    assert row["underrun_s"] == pytest.approx(0.5)
    assert row["ttfa_s_p50"] == pytest.approx(0.25)
    assert row["audio_s_per_s"] == pytest.approx(4.0 / 1.8)
    assert (row["llama_batch"], row["decoder_batch"]) == (2.0, pytest.approx(4 / 3))
    assert row["batches"]["fish_decoder"] == {1: 2, 2: 1}


def test_a_package_that_cannot_be_imported_is_a_reason_to_skip(monkeypatch) -> None:
    """As onnx of the machine beside the pack's protobuf."""
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setattr(step_onnx.importlib.util, "find_spec", lambda _: object())
    with pytest.raises(Skipped, match="needs onnx, whose import fails here: import of onnx halted"):
        step_onnx.require_runtime("cpu")
