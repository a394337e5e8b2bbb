"""Callers: their id travels with a request, and leaving ends what they wait for."""

import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from support.fake_server import FakeServer, chunk, whole
from support.launched import wait_until
from support.script_server import SCRIPT, VOICES
from voicereel import Caller, Cancelled, Client, stream_script

pytestmark = pytest.mark.slow


@pytest.fixture
def hanging(fake: FakeServer) -> Iterator[FakeServer]:
    """A server that gives one chunk, and the next when the caller has left."""
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        yield chunk(0)
        resume.wait(10)
        yield chunk(1)

    fake.answer = answer
    yield fake
    resume.set()


def consumed(caller: Caller, stream: Callable[[], Iterator]) -> tuple[threading.Thread, list]:
    """A thread that iterates a stream for the caller, and what became of it."""
    seen: list = []

    def consume() -> None:
        with caller.active():
            try:
                for piece in stream():
                    seen.append(piece)
            except Cancelled as error:
                seen.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    return thread, seen


def test_a_caller_who_leaves_ends_the_stream_at_once(hanging: FakeServer, client: Client) -> None:
    caller, begun = Caller(), threading.Event()

    def stream() -> Iterator:
        for piece in client.stream("Hello."):
            begun.set()
            yield piece

    thread, seen = consumed(caller, stream)
    assert begun.wait(5)
    caller.leave()
    thread.join(2)
    assert not thread.is_alive() and isinstance(seen[-1], Cancelled)
    wait_until(lambda: [r.model_name for r in hanging.requests][1:] == ["fish_cancel"])


def test_a_caller_who_has_left_gets_nothing(hanging: FakeServer, client: Client) -> None:
    caller = Caller()
    caller.leave()
    with caller.active(), pytest.raises(Cancelled, match="left"):
        for index, _ in enumerate(client.stream("Hello.")):
            assert index == 0
    assert caller.has_left


def test_leaving_ends_all_segments_of_a_script(hanging: FakeServer, client: Client) -> None:
    caller = Caller()
    thread, seen = consumed(caller, lambda: stream_script(client, SCRIPT, VOICES))
    wait_until(lambda: len(hanging.requests) == len(SCRIPT))
    caller.leave()
    thread.join(2)
    assert not thread.is_alive() and isinstance(seen[-1], Cancelled)


def test_the_id_and_metadata_travel_with_the_request(fake: FakeServer, client: Client) -> None:
    fake.answer = lambda _: iter([chunk(0, is_last=True)])
    with Caller("req-7", (("traceparent", "00-1-2-01"),)).active():
        list(client.stream("Hello."))
    list(client.stream("Hello."))
    first, second = fake.requests
    assert first.id == "req-7" and second.id not in ("", "req-7")
    assert ("traceparent", "00-1-2-01") in fake.metadata


def test_metadata_travels_with_a_unary_call(fake: FakeServer, client: Client) -> None:
    fake.answer = lambda _: iter([whole(np.zeros(8, np.float32))])
    with Caller("req-7", (("traceparent", "00-1-2-02"),)).active():
        client.synthesize("Hello.")
    assert ("traceparent", "00-1-2-02") in fake.metadata
