"""Operators are tried with two threads, between which their work is divided."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
