"""deploy/systemd: units that systemd takes, and that run what there is for as long as it takes."""

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import manifest_faults as faults
from support.manifests import Pods

FOLDER = faults.PROJECT / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PYTHON = "/opt/voicereel/.venv/bin/python"


def service(path: Path) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read(path)
    return parser["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_them(tmp_path: Path) -> None:
    for path in UNITS:
        text = (
            path.read_text().replace(PYTHON, sys.executable).replace("User=voicereel", "User=root")
        )
        (tmp_path / path.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_server_runs_with_options_that_there_are_and_may_end() -> None:
    unit = service(FOLDER / "voicereel.service")
    python, *arguments = shlex.split(unit["ExecStart"])
    assert python == PYTHON and arguments[:2] == ["-m", "launch.serve"]
    options = faults.parsed(faults.SERVE, arguments[2:])
    assert options["address"] == "127.0.0.1"
    assert unit["KillMode"] == "mixed"  # else models are told to stop before the streams have ended
    drain_s = faults.server_settings({}).drain_s
    assert int(unit["TimeoutStopSec"]) >= drain_s + faults.EXIT_TIMEOUT_S + 5


def test_the_gateway_runs_with_settings_that_there_are_and_may_end() -> None:
    unit = service(FOLDER / "voicereel-gateway.service")
    assert shlex.split(unit["ExecStart"]) == [PYTHON, "-m", "gateway"]
    given = dict(each.split("=", 1) for each in shlex.split(unit["Environment"]))
    given.pop("PYTHONUNBUFFERED")
    env = [{"name": name, "value": value} for name, value in given.items()]
    settings = faults.gateway_settings(Pods("unit", {"containers": [{"env": env}]}, {}))
    assert int(unit["TimeoutStopSec"]) >= settings.drain_s + 5
    assert f"/var/lib/{unit['StateDirectory'].split()[1]}" == str(settings.voices_folder)
