"""`voicereel doctor` finds each planted fault and says how to fix it."""

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

pytest.importorskip("tritonclient")

from launch.doctor import Finding, machine
from launch.doctor.repository import EXPORTED, TEMPLATE, artefacts
from voicereel import VoiceFeatures
from voicereel import doctor as doctor_of_the_client

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]


def doctor(*arguments: object, **environment: str) -> tuple[int, dict[str, dict]]:
    """Exit code and findings by check, the last of each; ports are free unless a test takes one."""
    free = [f"--{use}-port={_free_port()}" for use in ("http", "grpc", "metrics")]
    done = subprocess.run(
        [sys.executable, "-m", "voicereel", "doctor", "--json", *free, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client")} | environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A repository that looks as if everything had been exported into it."""
    repository = tmp_path / "repository"
    shutil.copytree(
        TEMPLATE,
        repository,
        ignore=shutil.ignore_patterns("*.onnx", "*.pt", "onnx", "*.json", "__pycache__"),
    )
    for model in ("fish_encoder", "fish_decoder"):
        (repository / model / "1" / "model.onnx").touch()
    for model, files in EXPORTED.items():
        for name in files:
            (repository / model / "1" / name).write_text('{"checkpoint_id": "abc"}')
    return repository


def voice(checkpoint_id: str) -> VoiceFeatures:
    return VoiceFeatures(np.zeros((10, 4), np.int64), (4,), ("hello",), checkpoint_id)


def test_client_and_server_findings_have_the_same_fields() -> None:
    assert list(doctor_of_the_client.Finding.__annotations__) == [
        field.name for field in dataclasses.fields(Finding)
    ]
    statuses = get_args(dataclasses.fields(Finding)[1].type)
    assert statuses == get_args(doctor_of_the_client.Status)


def test_a_sound_machine(exported: Path, tmp_path: Path) -> None:
    voice("abc").save(tmp_path / "alice.npz")
    code, found = doctor("--repository", exported, VOICEREEL_VOICES=str(tmp_path))
    broken = {name: f for name, f in found.items() if f["status"] != "ok"}
    assert (code, list(broken)) == (0, ["service"])  # nothing runs yet, which is a warning
    assert found["service"]["fix"].startswith("start it: voicereel serve")
    assert found["compiler"]["found"].endswith(("g++", "none is needed"))
    assert found["checkpoint"]["found"] == "abc"
    assert found["voices"]["found"] == f"1 of 1 usable in {tmp_path}"


def test_several_faults_in_one_run(exported: Path, tmp_path: Path) -> None:
    planted = tmp_path / "site" / "numpy-2.1.0.dist-info"
    planted.mkdir(parents=True)
    (planted / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 2.1.0\n")
    (exported / "fish_decoder" / "1" / "model.onnx").unlink()
    (exported / "fish_prompt" / "1" / "checkpoint.json").write_text('{"checkpoint_id": "other"}')
    voice("elsewhere").save(tmp_path / "alice.npz")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, found = doctor(
            *("--repository", exported, "--grpc-port", port, "--url", "127.0.0.1:1"),
            PYTHONPATH=os.pathsep.join([str(planted.parent), str(PROJECT / "client")]),
            VOICEREEL_VOICES=str(tmp_path),
            VOICEREEL_MAX_WORKERS="none",
            FISH_SPEECH_DEVICE="cuda",
        )
    assert code == 1
    expected = {
        "settings": ("VOICEREEL_MAX_WORKERS is 'none', expected 1 to 1024", "set or unset"),
        "numpy": ("2.1.0, expected 1.26.4: with numpy 2", "pip install numpy==1.26.4"),
        "ports": (f"another program listens: {port} (grpc)", "voicereel serve --grpc-port PORT"),
        "artefacts": ("lacks fish_decoder/1/model.onnx", "make export CHECKPOINT=DIR"),
        "checkpoint": ("fish_llama abc, fish_prompt other", "make export CHECKPOINT=DIR"),
        "service": ("no answer from 127.0.0.1:1", "voicereel serve"),
    }
    if not shutil.which("nvidia-smi"):
        expected["GPU"] = ("FISH_SPEECH_DEVICE is cuda", "unset FISH_SPEECH_DEVICE")
    for check, (what, fix) in expected.items():
        finding = found[check]
        assert finding["status"] == "broken", finding
        assert what in finding["found"]
        assert fix in finding["fix"]


def test_a_voice_of_another_checkpoint_and_a_damaged_one(exported: Path, tmp_path: Path) -> None:
    voice("elsewhere").save(tmp_path / "alice.npz")
    (tmp_path / "bob.npz").write_text("damaged")
    done = subprocess.run(
        [sys.executable, "-m", "voicereel", "doctor", f"--repository={exported}"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client"), "VOICEREEL_VOICES": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "alice was made by checkpoint elsewhere, the server has abc" in done.stdout
    assert "fix: voicereel voice add 'alice' RECORDING --text WORDS --force" in done.stdout
    assert "bob.npz is not a voice file" in done.stdout


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.tritonserver.importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr("launch.tritonserver.shutil.which", lambda _: None)
    if Path("/opt/tritonserver/bin/tritonserver").is_file():
        pytest.skip("this machine has a tritonserver of its own")
    found = machine.server()
    assert (found.status, found.fix) == ("broken", "make setup")
    assert "no tritonserver" in found.found


@pytest.mark.parametrize("version", [(3, 10), (3, 13)])
def test_another_interpreter(monkeypatch: pytest.MonkeyPatch, version: tuple[int, int]) -> None:
    monkeypatch.setattr("sys.version_info", (*version, 0))
    assert machine.interpreter().status == "broken"


def test_every_missing_file_is_found(exported: Path) -> None:
    files = [p for p in exported.rglob("*") if p.is_file() and "configs" not in p.parts]
    needed = [p for p in files if p.name not in (".gitkeep", "model.pt")]
    assert len(needed) > 20
    for path in needed:
        held = path.read_bytes()
        path.unlink()
        found = {f.check: f for f in artefacts(exported)}
        assert found["artefacts"].status == "broken", path
        assert str(path.relative_to(exported)) in found["artefacts"].found
        path.write_bytes(held)
    assert {f.status for f in artefacts(exported)} == {"ok"}


def test_the_files_that_are_needed_are_the_familys(exported: Path) -> None:
    folder = exported / "fish_prompt" / "1"
    (folder / "checkpoint.json").write_text('{"checkpoint_id": "abc", "family": "fish_s2"}')
    found = {f.check: f for f in artefacts(exported)}
    assert "lacks fish_prompt/1/tokenizer.json" in found["artefacts"].found
    (folder / "tokenizer.json").touch()
    (folder / "tokenizer.tiktoken").unlink()
    assert {f.status for f in artefacts(exported)} == {"ok"}


def test_a_repository_of_another_version_is_a_warning(exported: Path) -> None:
    (exported / "fish_llama" / "1" / "model.py").write_text("# older\n")
    found = {f.check: f for f in artefacts(exported)}
    assert (found["version"].status, found["artefacts"].status) == ("warning", "ok")
    assert "fish_llama/1/model.py" in found["version"].found


def test_no_repository(tmp_path: Path) -> None:
    (found,) = artefacts(tmp_path / "nowhere")
    assert (found.status, found.fix) == ("broken", "make export CHECKPOINT=DIR")


@pytest.mark.server
def test_a_running_server_is_seen(server, repository: Path) -> None:
    ports = [f"--{use}-port={port}" for use, port in server.ports.items()]
    code, found = doctor("--repository", repository, "--url", server.grpc_url, *ports)
    assert code == 0, found
    assert found["ports"]["found"].startswith("a tritonserver listens")
    assert found["service"]["found"] == f"{server.grpc_url} is ready"
    assert {f["status"] for f in found.values()} <= {"ok"}
