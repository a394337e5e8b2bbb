"""A repository with one small model."""

from pathlib import Path

import pytest

from support import toys


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    toys.place_doubling(tmp_path / "toy")
    return tmp_path / "toy"
