"""A small /dev/shm is said before it refuses anybody."""

from types import SimpleNamespace

import pytest

from launch import shared_memory
from launch.doctor import machine


def test_enough_is_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=2**30))
    assert shared_memory.shortage() == ""
    assert machine.shared_memory().status == "ok"


def test_dockers_default_is_warned_of_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=64 * 2**20))
    found = machine.shared_memory()
    assert found.status == "warning"
    assert "/dev/shm has 64 MB" in found.found
    assert "--shm-size=1g" in found.fix and "medium: Memory" in found.fix


def test_serve_warns(toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on: short texts need little."""
    import sys
    import textwrap

    import launch.serve as launched

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=64 * 2**20))
    said: list[str] = []

    def stop(*_: object, **__: object) -> None:
        raise launched.LaunchError("planted")

    monkeypatch.setattr(launched.Server, "start", stop)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=said.append, flush=lambda: None))
    with pytest.raises(launched.typer.Exit):
        launched.main(toy, http_port=0, grpc_port=0, metrics_port=0)
    assert textwrap.shorten("".join(said), 60).startswith("serve: warning: /dev/shm has 64 MB")
    assert "serve: planted" in "".join(said)
