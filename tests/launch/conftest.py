"""A repository with one small model, and a folder of a server that runs."""

from pathlib import Path

import pytest

from launch import supervisor as supervising
from launch.run_folder import RunFolder
from support import toys


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    toys.place_doubling(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """Of a server, in a folder for temporary files of its own; the supervisor looks often."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(supervising, "TICK_S", 0.05)
    return RunFolder.create()
