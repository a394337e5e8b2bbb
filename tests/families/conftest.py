"""A tiny S2 checkpoint of our own, and the recorded one."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def s2_tiny(tmp_path_factory) -> Path:
    """The folder of `make-checkpoint s2-tiny`; not to be written to."""
    from families.fish_s2.make_checkpoint import make_checkpoint

    folder = tmp_path_factory.mktemp("s2") / "tiny"
    make_checkpoint("s2-tiny", folder)
    return folder


@pytest.fixture(scope="session")
def s2_golden(s2_tiny, tmp_path_factory) -> Path:
    """The folder of the recorded checkpoint; not to be written to."""
    from support.s2_golden import write_checkpoint

    return write_checkpoint(tmp_path_factory.mktemp("s2") / "golden", s2_tiny)
