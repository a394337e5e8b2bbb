"""A server whose answers a test decides, and a client of it."""

from collections.abc import Iterator

import pytest

from support.fake_server import FakeServer
from voicereel import Client


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(fake: FakeServer) -> Iterator[Client]:
    with Client(fake.url, timeout_s=10) as client:
        yield client
