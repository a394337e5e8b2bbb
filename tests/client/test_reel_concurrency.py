"""Requests of a script in flight together: their number and order, streams, cancelling, asyncio."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer, chunk, inputs_of
from support.script_server import (
    LENGTHS,
    SCRIPT,
    VOICES,
    joined,
    spoken,
    streamed,
    text_of,
)
from voicereel import (
    Cancelled,
    Client,
    stream_script,
    synthesize_script,
    synthesize_script_async,
)
from voicereel.script import speak


@pytest.fixture
def fake(fake: FakeServer) -> FakeServer:
    fake.answer = spoken
    return fake


def test_longest_first_and_never_too_many(fake: FakeServer, client: Client) -> None:
    flying, most = [0], [0]
    lock = threading.Lock()

    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.05)
        with lock:
            flying[0] -= 1
        yield from spoken(inputs)

    fake.answer = slow
    for how, expected in (({"max_workers": 2}, 2), ({"parallel": False}, 1), ({}, 4)):
        most[0] = 0
        fake.requests.clear()
        audio, _ = synthesize_script(client, SCRIPT, VOICES, **how)
        assert most[0] == expected
        np.testing.assert_array_equal(audio.waveform, joined("1", "22222", "333", "4444"))
        if expected == 1:
            texts = [text_of(inputs_of(request)) for request in fake.requests]
            assert texts == ["22222", "4444", "333", "1"]


def test_a_stream_is_heard_before_the_script_is_done(fake: FakeServer, client: Client) -> None:
    go_on = threading.Event()

    def waiting(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if text_of(inputs) != "1":
            go_on.wait(10)
        yield from streamed(inputs)

    fake.answer = waiting
    pieces = stream_script(client, SCRIPT, VOICES)
    first = [next(pieces) for _ in range(3)]
    assert [(p.segment, len(p.waveform), bool(p.caption)) for p in first] == [
        (0, 5, False), (0, 5, False), (0, 0, True)
    ]  # fmt: skip
    go_on.set()
    rest = list(pieces)
    assert [piece.segment for piece in rest] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_closing_a_stream_cancels(fake: FakeServer, client: Client) -> None:
    def endless(_: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        for index in range(1000):
            yield chunk(index)
            time.sleep(0.01)

    fake.answer = endless
    pieces = stream_script(client, SCRIPT * 5, VOICES, max_workers=2)
    next(pieces)
    pieces.close()
    assert fake.cancelled.wait(5)
    time.sleep(0.2)
    # The client's calls of fish_cancel are among the requests too.
    assert [r.model_name for r in list(fake.requests)].count("fish_tts_stream") == 2


def test_stopping(fake: FakeServer, client: Client) -> None:
    stop = threading.Event()
    with pytest.raises(Cancelled, match="stopped before the end"):
        synthesize_script(
            client, SCRIPT, VOICES, parallel=False, stop=stop, progress=lambda *_: stop.set()
        )
    assert len(fake.requests) == 1


def test_progress(client: Client) -> None:
    told: list[tuple[int, float]] = []
    synthesize_script(client, SCRIPT, VOICES, progress=lambda *done: told.append(done))
    assert sorted(told) == [(n, length / RATE_HZ) for n, length in enumerate(LENGTHS)]


def test_async(fake: FakeServer, client: Client) -> None:
    async def both() -> Any:
        return await asyncio.gather(
            synthesize_script_async(client, SCRIPT[:2], VOICES),
            synthesize_script_async(client, SCRIPT[2:], VOICES, silence_s=3 / RATE_HZ),
        )

    first, second = asyncio.run(both())
    np.testing.assert_array_equal(first.audio.waveform, joined("1", "22222"))
    np.testing.assert_array_equal(second.audio.waveform, joined("333", 3, "4444"))


def test_cancelling_async_begins_no_more(fake: FakeServer, client: Client) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        begun.set()
        go_on.wait(10)
        yield from spoken(inputs)

    fake.answer = slow

    async def cancelled_during_the_first_request() -> None:
        speaking = asyncio.create_task(
            synthesize_script_async(client, SCRIPT, VOICES, parallel=False)
        )
        assert await asyncio.to_thread(begun.wait, 10)
        speaking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await speaking
        go_on.set()

    asyncio.run(cancelled_during_the_first_request())
    assert len(fake.requests) == 1


def test_async_scripts_delay_no_other_thread(fake: FakeServer, client: Client) -> None:
    go_on = threading.Event()

    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        go_on.wait(20)
        yield from spoken(inputs)

    fake.answer = slow

    async def forty() -> list[Any]:
        speaking = [
            asyncio.create_task(synthesize_script_async(client, SCRIPT[:1], VOICES))
            for _ in range(40)
        ]
        await asyncio.sleep(0.1)
        try:
            await asyncio.wait_for(asyncio.to_thread(int), 5)
        finally:
            go_on.set()
        return await asyncio.gather(*speaking)

    assert {reel.audio.duration_s for reel in asyncio.run(forty())} == {10 / RATE_HZ}


def test_a_script_that_waits_for_its_thread_can_be_cancelled(
    fake: FakeServer, client: Client
) -> None:
    go_on = threading.Event()

    def slow(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        go_on.wait(20)
        yield from spoken(inputs)

    fake.answer = slow

    async def cancelled_while_waiting() -> None:
        speaking = [
            asyncio.create_task(synthesize_script_async(client, SCRIPT, VOICES, parallel=False))
            for _ in range(60)
        ]
        await asyncio.sleep(0.3)
        for task in speaking:
            task.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError)
            for end in await asyncio.gather(*speaking, return_exceptions=True)
        )
        go_on.set()

    asyncio.run(cancelled_while_waiting())
    time.sleep(0.2)
    assert len(fake.requests) <= 32  # one for each that had begun, as many as there are threads


def test_async_has_threads_in_a_forked_process(client: Client) -> None:
    asyncio.run(synthesize_script_async(client, SCRIPT[:1], VOICES))
    before = speak._waiting
    if (pid := os.fork()) == 0:
        signal.alarm(20)  # a child that hangs ends, and fails the test
        is_new = speak._waiting is not before
        os._exit(0 if is_new and speak._waiting.submit(int).result(5) == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0
