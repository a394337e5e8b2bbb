"""A gateway in front of a server whose answers a test decides."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fake_server import FakeServer
from support.gateway import Gateway, chunks, running, tone


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(scope="module")
def voices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voices folder."""
    return tmp_path_factory.mktemp("voices")


@pytest.fixture(scope="module")
def shared(fake: FakeServer, voices: Path) -> Iterator[Gateway]:
    with running(fake.url, voices) as gateway:
        yield gateway


@pytest.fixture
def gateway(fake: FakeServer, shared: Gateway) -> Gateway:
    """The module's gateway; its server says a tone of a second, and has no memory."""
    fake.answer = lambda _: chunks(*cut(tone(1.0)))
    fake.requests.clear()
    fake.metadata.clear()
    fake.cancelled.clear()
    return shared


def cut(waveform, sizes=(16384, 7, 12000)) -> list:
    """Pieces of these sizes, and the rest."""
    ends = [0, *(sum(sizes[: i + 1]) for i in range(len(sizes))), len(waveform)]
    return [waveform[a:b] for a, b in itertools.pairwise(ends)]
