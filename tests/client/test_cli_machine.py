"""`voicereel settings`, and commands that need the whole project."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import run

PROJECT = Path(__file__).resolve().parents[2]


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VOICEREEL_MAX_WORKERS", "7")
    monkeypatch.setenv("VOICEREEL_BATCHSIZE", "7")
    code, out, err = run("settings", "--json")
    found = json.loads(out)
    assert (code, found["VOICEREEL_MAX_WORKERS"]["value"]) == (0, 7)
    assert found["VOICEREEL_MAX_WORKERS"]["origin"] == "environment"
    assert found["FISH_SPEECH_PRECISION"]["origin"] == "default"
    assert found["FISH_SPEECH_PRECISION"]["read_by"] == "server"
    assert "did you mean VOICEREEL_BATCH_SIZE?" in err
    assert "VOICEREEL_PARALLEL_SYNTHESIS" in run("settings")[1]
    monkeypatch.setenv("VOICEREEL_MAX_WORKERS", "none")
    code, out, err = run("settings")
    assert (code, out) == (2, "")
    assert "ConfigurationError: VOICEREEL_MAX_WORKERS is 'none'" in err


def test_a_client_without_the_project_says_what_serving_needs(tmp_path: Path) -> None:
    code = (
        "import voicereel.project as p, pathlib\n"
        f"p.__file__ = {str(tmp_path / 'a' / 'b' / 'project.py')!r}\n"
        "from voicereel.cli import app; app(['serve'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "only its client is installed here. In a checkout of it: make setup" in done.stderr
