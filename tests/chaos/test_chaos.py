"""The short form of `make chaos`: the worst minute of a supervised server."""

from pathlib import Path

import pytest

from support.chaos import disks, faults
from support.chaos.fuzz import fuzz
from support.chaos.world import served, slow_copy

pytestmark = [pytest.mark.server, pytest.mark.slow]
# A start takes twice the time beside another run of pytest: `make chaos` measures, this does not.
PATIENCE_S = 120


def test_a_bad_minute(repository: Path, tmp_path: Path) -> None:
    """A model's process is killed under a stream; then SIGTERM comes to tritonserver itself."""
    slow = slow_copy(repository, tmp_path / "repository")
    with served(slow) as world:
        rows = [
            faults.death(world, "fish_decoder_0_0"),
            fuzz(world, 500),
            faults.leavers(world),
            disks.second_server(world, slow),
            faults.stop(world, to_server=True),
        ]
        said = "".join(world.said)
    assert [(row.fault, row.lost, row.notes) for row in rows if row.lost] == []
    assert rows[0].recovery_s is not None and rows[0].recovery_s < PATIENCE_S
    assert "the process of fish_decoder_0_0 (pid " in said and "serving again after " in said
