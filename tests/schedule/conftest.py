"""The scheduler's time, for tests that say when it passes."""

import pytest

from support.engine import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Takes the place of the clock of the scheduler and of what it counts with."""
    from engine.schedule import batch, generation, scheduler  # needs torch

    clock = Clock()
    for module in (batch, generation, scheduler):
        monkeypatch.setattr(module, "time", clock)
    return clock
