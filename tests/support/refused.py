"""A refusal that must come in little time and memory."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from voicereel import InvalidRequest


def refused(path: Path, message: str, read: Callable) -> None:
    """Read a file that is refused, with its name and a short message."""
    with bounded(), pytest.raises(InvalidRequest, match=message) as caught:
        read(path)
    assert len(str(caught.value)) < 500
    assert path.name in str(caught.value)


@contextmanager
def bounded() -> Iterator[None]:
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - begin < 10  # seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB
