"""The load test's parts, and a small load made by the real perf_analyzer."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.answers import Answer
from benchmarks.load import perf_analyzer
from benchmarks.load.breakdown import breakdown
from benchmarks.load.decoder_batches import figures
from benchmarks.load.perf_analyzer import Load, PerfAnalyzerError
from benchmarks.load.report import read_csv
from benchmarks.load.rows import texts, write_rows
from benchmarks.server_stats import ModelStats, Snapshot
from voicereel import VoiceFeatures

PROJECT = Path(__file__).resolve().parents[2]


def test_breakdown_of_counters() -> None:
    used = Snapshot(
        defaultdict(ModelStats, {
            "fish_prompt": ModelStats(4, 4, 0.3, 0.1), "fish_llama": ModelStats(4, 4),
            "fish_decoder": ModelStats(12, 8, 2.4, 1.2),
        }),
        defaultdict(float, {
            "fish_llama_frames_total": 90, 'fish_llama_steps_total{batch="1"}': 10,
            'fish_llama_steps_total{batch="4"}': 20, "fish_llama_first_windows_total": 4,
            "fish_llama_first_window_seconds_total": 2.0, "fish_llama_prefix_hits_total": 3,
        }),
        defaultdict(float, {"fish_llama": 5.0, "fish_prompt": 0.25, "fish_tts": 1}),
    )  # fmt: skip
    row = breakdown(used)
    assert (row["llama_batch"], row["decoder_batch"]) == (3.0, 1.5)
    assert (row["prompt_s"], row["first_window_s"]) == (pytest.approx(0.1), 0.5)
    assert (row["decoder_queue_s"], row["decoder_compute_s"]) == pytest.approx((0.1, 0.3))
    assert (row["cpu_s_fish_llama"], row["cpu_s_others"]) == (5.0, 1.25)
    assert (row["prefix_hits"], row["prefix_misses"]) == (3, 0)


def test_exponent_and_bend_of_known_curves() -> None:
    sizes = [1, 2, 4, 8, 16]
    assert growth.exponent(sizes, [3 * s for s in sizes]) == pytest.approx(1)
    assert growth.exponent(sizes, [s**2 for s in sizes]) == pytest.approx(2)
    assert growth.bend(sizes, [5 + 3 * s for s in sizes]) == pytest.approx(1)
    assert growth.bend(sizes, [s**2 for s in sizes]) == pytest.approx(24 / 17)


def test_the_texts_are_many_and_distinct() -> None:
    lines = texts()
    assert len(lines) >= 100
    assert len({text for _, text in lines}) == len(lines)
    assert {"en", "de", "fr", "zh", "ja"} <= {language for language, _ in lines}
    lengths = sorted(len(text) for _, text in lines)
    assert lengths[0] < 10 and lengths[-1] > 400
    assert all(text == text.strip() and text for _, text in lines)


def test_rows_take_the_voices_in_turns(tmp_path) -> None:
    voice = VoiceFeatures(np.arange(20).reshape(10, 2), (2,), ("words",), "id")
    count = write_rows(tmp_path / "rows.json", {"a": voice, "own": None}, 43)
    rows = json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))["data"]
    assert len(rows) == count == len(texts())
    assert rows[0]["reference_codes"] == {"content": list(range(20)), "shape": [10, 2]}
    assert "reference_codes" not in rows[1]
    assert [row["seed"]["content"] for row in rows[:3]] == [[0], [1], [2]]


def test_an_open_loop_has_exactly_its_rate() -> None:
    intervals = perf_analyzer.poisson_intervals_us(Load("fish_tts", False, 4.0, 201))
    assert len(intervals) == 201
    assert sum(intervals[1:]) / 1e6 == pytest.approx(200 / 4.0, rel=1e-4)
    assert np.std(intervals) / np.mean(intervals) == pytest.approx(1.0, abs=0.25)  # exponential


def test_a_missing_binary_or_library_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PerfAnalyzerError, match=r"no perf_analyzer .* make setup"):
        perf_analyzer.find(tmp_path / "links")
    said = perf_analyzer.how_to_install(["libb64.so.0d", "libcudart.so.12", "GLIBC_2.34"])
    assert "As root: apt-get install -y libb64-0d." in said
    assert "make setup" in said and "Ubuntu 22.04 or newer" in said


def test_the_binary_of_the_wheel_finds_its_libraries(tmp_path) -> None:
    found = perf_analyzer.find(tmp_path)
    assert perf_analyzer.missing_libraries(found.binary, found.environment) == []
    assert found.binary.parent == Path(sys.prefix, "bin")
    assert found.binary.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize(
    "command",
    [[sys.executable, "-m", "benchmarks.load.perf_analyzer"], [f"{sys.prefix}/bin/perf_analyzer"]],
    ids=["module", "alone"],
)
def test_it_runs_as_a_command(command: list[str]) -> None:
    done = subprocess.run([*command, "--version"], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Perf Analyzer Version" in done.stdout + done.stderr


def test_a_failed_load_says_why(tmp_path) -> None:
    found, load = perf_analyzer.find(tmp_path), Load("fish_tts", True, 1, 1)
    (tmp_path / "rows.json").write_text('{"data": []}')
    with pytest.raises(PerfAnalyzerError, match=r"exit status \d+: .*127.0.0.1:9"):
        found.run(load, "127.0.0.1:9", tmp_path / "rows.json", tmp_path / "out", 30)


@pytest.mark.server
@pytest.mark.long
def test_a_quick_load_is_answered_counted_and_reported(repository, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", "--quick", "--repository", repository,
         "--concurrencies", "4", "--out", tmp_path],
        cwd=PROJECT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["failed"], said["left_out"]) == (0, 0)
    kinds = [(load["model"], load["closed"]) for load in said["loads"]]
    assert kinds == [(m, c) for m in ("fish_tts_stream", "fish_tts") for c in (True, False)]
    for row in read_csv(tmp_path / "report" / "load.csv"):
        assert row["answers"] == row["requests"] == row["llama_requests"] >= 8
        name = perf_analyzer.Load(*(row[n] for n in ("model", "closed", "level", "requests"))).name
        answers = json.loads((tmp_path / f"{name}.answers.json").read_text())
        assert {a["finish_reason"] for a in answers} <= {"stop", "length"}
        frames = sum(sum(a["durations_s"]) for a in answers) * 44100 / 2048
        stops = sum(a["finish_reason"] == "stop" for a in answers)  # the end token is a step too
        assert round(frames) + stops == row["llama_frames"]
        assert row["decoder_windows"] >= len(answers)
        assert row["prefix_hits"] == sum(i % 3 < 2 for i in range(row["requests"]))
        assert row["prefix_misses"] == 0
        assert row["cpu_s_fish_llama"] > 0 and row["memory_mib"] > 100
    for row in said["loads"]:
        assert 0 <= row["share_without_gap_over_50_ms"] <= row["share_without_gap_over_200_ms"] <= 1
        assert row["underrun_s"] >= 0 and row["underruns"] >= 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert report.count("## ") == 4 and "voice-prefix cache is on and warm" in report
    assert report.count("| no gap over 50 / 100 / 200 ms, % |") == 2  # the tables of streams
    assert {p.name for p in (tmp_path / "report").glob("*.png")} == {
        "throughput.png", "listener.png", "batches.png", "time.png",
    }  # fmt: skip


def test_rows_of_the_decoder_benchmark() -> None:
    used = Snapshot(defaultdict(ModelStats, {"fish_decoder": ModelStats(6, 3, 1.5, 0.6)}))
    found = figures([Answer(0.0, (0.5, 1.0), (1.0, 1.0), "length")] * 2, used)
    assert (found["windows"], found["mean_batch"], found["audio_s_per_s"]) == (6, 2.0, 4.0)
    assert (found["ttfa_s_p50"], found["gap_s_p95"]) == (0.5, 0.5)
    assert (found["queue_s"], found["compute_s"]) == pytest.approx((0.1, 0.5))
