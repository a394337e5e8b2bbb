"""A server whose answers a test decides, and a client of it."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.answers import saying
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


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    """Two servers; each says its number."""
    with ExitStack() as stack:
        found = [stack.enter_context(FakeServer()) for _ in range(2)]
        for number, fake in enumerate(found):
            fake.answer, fake.facts = saying(number), {}
        yield found
