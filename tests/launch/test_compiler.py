"""Who has no compiler is told what it costs, and the command that brings one."""

import pytest

from benchmarks.demo.run import say_if_slow
from ensemble.contract import distribution
from ensemble.contract.settings import ServerSettings
from launch import compiler
from launch.doctor import machine
from support.launched import serve

FIVE = "there is no C++ compiler, and without kernels speech takes about five times as long"


@pytest.fixture
def without(monkeypatch) -> None:
    monkeypatch.setattr("launch.compiler.shutil.which", lambda _: None)


def test_a_machine_that_has_one_is_told_nothing(monkeypatch) -> None:
    monkeypatch.setattr("launch.compiler.shutil.which", lambda name: name == "g++")
    monkeypatch.setattr(compiler, "NAME", "g++")
    assert compiler.missing(ServerSettings()) == ""


def test_one_that_has_none_is_told_unless_it_needs_none(without, monkeypatch) -> None:
    assert compiler.missing(ServerSettings()) == FIVE
    assert compiler.missing(ServerSettings(use_kernels=False)) == ""
    monkeypatch.setattr("launch.compiler.shutil.which", lambda name: name == "nvidia-smi")
    assert compiler.missing(ServerSettings()) == ""
    assert compiler.missing(ServerSettings(device="cpu")) == FIVE


def test_doctor_says_so(without, monkeypatch) -> None:
    found = machine.compiler()
    assert (found.check, found.status, found.found) == ("compiler", "warning", FIVE)
    assert found.fix == f"{distribution.install('g++')}, then export again"
    monkeypatch.setenv("FISH_SPEECH_COMPILE", "perhaps")
    assert "FISH_SPEECH_COMPILE" in machine.compiler().found


def test_the_demo_ends_with_it(without, capsys, monkeypatch) -> None:
    say_if_slow("make demo")
    said = " ".join(capsys.readouterr().err.split())
    assert said == f"Slow here: {FIVE}; {distribution.install('g++')}, then make demo"


def test_serve_begins_with_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("FISH_SPEECH_DEVICE", "cpu")
    with serve("--repository", tmp_path / "none") as process:
        errors = process.communicate(timeout=60)[1].splitlines()
    assert errors[0] == (
        f"serve: warning: {FIVE}; {distribution.install('g++')}, then export again"
    )
