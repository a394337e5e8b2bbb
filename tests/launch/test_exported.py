"""A repository that another version of the project exported is told so at the start."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ensemble.check.repository import differences
from ensemble.contract import manifest
from launch import serve, tritonserver
from launch.doctor.repository import artefacts
from launch.exported import COMMITTED
from launch.tritonserver import LaunchError

SAID = "{} was exported by another version of this project: export again, with make export"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A copy of the committed repository, as an earlier version exported it."""
    ignored = shutil.ignore_patterns("*.onnx", "*.pt", "*.json", "*.tiktoken", "__pycache__")
    copy = Path(shutil.copytree(COMMITTED, tmp_path / "older", ignore=ignored))
    (copy / "fish_llama/1/model.py").write_text("from engine import what_there_was")
    told = {"format": manifest.FORMAT, "shells": "0" * 64, "sha256": {}, "facts": {}}
    (copy / "fish_llama/1" / manifest.FILE_NAME).write_text(json.dumps(told))
    return copy


def test_serve_says_so_at_once_and_when_a_model_fails(older, monkeypatch) -> None:
    def fail(_: Path) -> None:
        raise LaunchError("fish_llama: cannot import name 'what_there_was'")

    monkeypatch.setattr(tritonserver, "find", fail)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    app = typer.Typer()
    app.command()(serve.main)
    ports = [f"--{use}-port=0" for use in ("http", "grpc", "metrics")]
    done = CliRunner().invoke(app, ["--repository", str(older), *ports])
    warned, failed = done.stderr.strip().splitlines()[-2:]
    assert warned.startswith(f"serve: warning: {SAID.format(older)}")
    assert failed.startswith(f"serve: {SAID.format(older)}")
    assert failed.endswith("It did not start: fish_llama: cannot import name 'what_there_was'")
    assert done.exit_code == 1


def test_check_and_doctor_say_so(older) -> None:
    assert any(each.startswith(SAID.format(older)) for each in differences(older))
    found = {each.check: each for each in artefacts(older)}["version"]
    assert found.status == "warning" and found.found.startswith(SAID.format(older))
