"""Options of `serve` and the proxy that mean nothing are refused before anything starts."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launch import serve
from proxy import __main__ as proxy


def refused(command: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    """Exit status and what was said."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    app = typer.Typer()
    app.command()(command.main)
    done = CliRunner().invoke(app, [*arguments])
    return done.exit_code, re.sub(r"[\s│╭╮╰╯─]+", " ", done.output)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e38", "x", ""])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        (serve, "--deadline"),
        (proxy, "--grace"),
        (proxy, "--probe"),
        (proxy, "--longest-wait"),
        (proxy, "--slow-reader"),
    ],
)
def test_seconds(monkeypatch, command, option: str, value: str) -> None:
    status, said = refused(command, monkeypatch, f"{option}={value}")
    assert status == 2 and f"Invalid value for '{option}'" in said


@pytest.mark.parametrize("value", ["-1", "65536", "1.5", "99999999999999999999"])
@pytest.mark.parametrize("command", [serve, proxy])
def test_ports(monkeypatch, command, value: str) -> None:
    status, said = refused(command, monkeypatch, f"--http-port={value}")
    assert status == 2 and "Invalid value for '--http-port'" in said


def test_a_log_that_cannot_be_written(monkeypatch, tmp_path: Path) -> None:
    for log, why in ((tmp_path, "Is a directory"), (tmp_path / "no/x", "No such file")):
        status, said = refused(serve, monkeypatch, f"--log={log}")
        assert status == 1 and f"serve: --log {log}: {why}" in said
        assert said.strip().endswith("Name a file that can be written")
