"""The benchmark of VoiceReel as documented: both engines, one checkpoint, a verdict by its rule."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.server import Server

pytestmark = [pytest.mark.server, pytest.mark.torch]

PROJECT = Path(__file__).resolve().parents[2]
BENCHMARK = "tools/benchmark_performance.py"


def run(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROJECT / BENCHMARK, "--output", "results.json", *map(str, arguments)],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.long
def test_both_engines(server: Server, tiny_checkpoint: Path, tmp_path: Path) -> None:
    small = ["--segments", 15, "--runs", 2, "--engine", "both", "--regular-segments", 1]
    done = run(
        tmp_path, *small, VOICEREEL_URL=server.grpc_url, VOICEREEL_CHECKPOINT=str(tiny_checkpoint)
    )
    assert done.returncode in (0, 1), done.stderr
    result = json.loads((tmp_path / "results.json").read_text())
    optimized, regular = result["engines"]["optimized"], result["engines"]["regular"]
    assert (optimized["segments"], optimized["workers"], len(optimized["runs"])) == (15, 15, 2)
    assert (regular["segments"], regular["workers"], len(regular["runs"])) == (1, 1, 2)
    assert 0 < regular["audio_s"] <= 43 * 2048 / 44_100
    for engine in (optimized, regular):
        assert engine["rtf"] == pytest.approx(engine["wall_s"] / engine["audio_s"])
        assert engine["allowed_s"] == pytest.approx(8 * engine["audio_s"] / 30)
        assert engine["stages"]["synthesis"]["calls"] == 2
    assert result["speedup"] == pytest.approx(regular["rtf"] / optimized["rtf"])
    enough = optimized["audio_s"] >= 15
    assert result["passed"] == (enough and optimized["wall_s"] <= optimized["allowed_s"])
    assert done.returncode == (0 if result["passed"] else 1)
    verdict = "PASS: optimized engine" if result["passed"] else "FAIL: optimized engine"
    assert done.stdout.splitlines()[-1].startswith(verdict)
    assert {"machine", "commit", "versions", "checkpoint_id"} <= result.keys()
    assert result["versions"]["numpy"].startswith("1.26")


def test_too_little_audio_proves_nothing(server: Server, tmp_path: Path) -> None:
    small = ["--segments", 2, "--runs", 1, "--engine", "optimized", "--frames", 3]
    done = run(tmp_path, *small, "--url", server.grpc_url)
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1].startswith("FAIL: optimized engine, 0.3 s of audio in ")


def test_what_it_cannot_measure_is_said(server: Server, tmp_path: Path) -> None:
    done = run(tmp_path, "--url", "127.0.0.1:1")
    assert done.returncode == 2
    assert "no server is ready at 127.0.0.1:1" in done.stderr
    done = run(tmp_path, "--url", server.grpc_url, "--engine", "regular", "--checkpoint", tmp_path)
    assert done.returncode == 2
    assert "missing, expected config.json" in " ".join(done.stderr.split())
