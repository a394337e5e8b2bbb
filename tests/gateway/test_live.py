"""The WebSocket for text that is still being written."""

import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from gateway import live
from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.gateway import Gateway, chunks, tone
from support.launched import wait_until
from support.script_server import text_of

CONFIG = {"type": "session.config", "voice": "alloy", "sample_rate": RATE_HZ}
ONE = "This is the first sentence. "
TWO = "And here is the second one. "


@pytest.fixture
def socket(gateway: Gateway, fake: FakeServer) -> Iterator[ClientConnection]:
    fake.answer = lambda inputs: chunks(np.full(441, len(text_of(inputs)) / 100, np.float32))
    with opened(gateway) as connection:
        yield connection


@contextlib.contextmanager
def opened(gateway: Gateway, **how: Any) -> Iterator[ClientConnection]:
    url = f"ws{gateway.url.removeprefix('http')}/v1/audio/speech/stream"
    with connect(url, proxy=None, open_timeout=20, **how) as connection:
        yield connection


def tell(socket: ClientConnection, kind: str, **fields: Any) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def hear(socket: ClientConnection) -> Any:
    """The next message, as an object or bytes."""
    got = socket.recv(timeout=20)
    return got if isinstance(got, bytes) else json.loads(got)


def configured(socket: ClientConnection, **fields: Any) -> dict:
    socket.send(json.dumps({**CONFIG, **fields}))
    return hear(socket)


def until_done(socket: ClientConnection) -> list:
    found = [hear(socket)]
    while isinstance(found[-1], bytes) or found[-1]["type"] != "session.done":
        found.append(hear(socket))
    return found


def sentences(messages: list) -> list[str]:
    return [m["sentence_text"] for m in messages if m != b"" and isinstance(m, dict)
            and m["type"] == "audio.start"]  # fmt: skip


def test_a_session_speaks_sentence_by_sentence(socket: ClientConnection) -> None:
    assert configured(socket) == {
        "type": "session.configured", "format": "pcm", "sample_rate": RATE_HZ, "channels": 1,
    }  # fmt: skip
    for letter in ONE + TWO:  # pieces that are no words
        tell(socket, "input.text", text=letter)
    start, audio, done = (hear(socket) for _ in range(3))  # while the turn is still open
    assert start == {
        "type": "audio.start", "utterance_index": 0, "sentence_index": 0, "format": "pcm",
        "sentence_text": ONE.strip(), "sample_rate": RATE_HZ, "channels": 1,
    }  # fmt: skip
    assert len(audio) == 882
    assert done["total_bytes"] == 882 and done["seconds"] == pytest.approx(0.01)
    assert done["error"] is None
    tell(socket, "input.done")
    messages = until_done(socket)
    assert sentences(messages) == [TWO.strip()]
    assert messages[-1] == {"type": "session.done", "utterance_index": 0, "total_sentences": 2}
    tell(socket, "input.text", text="Another turn.")  # the connection stays
    tell(socket, "session.close")
    messages = until_done(socket)
    assert sentences(messages) == ["Another turn."] and messages[-1]["utterance_index"] == 1
    with pytest.raises(ConnectionClosed):
        hear(socket)
    assert socket.close_code == 1000


def test_order_is_kept_while_two_are_spoken(socket: ClientConnection, fake: FakeServer) -> None:
    resume = threading.Event()

    def answer(inputs: dict) -> Iterator[dict]:
        if text_of(inputs) == ONE.strip():
            resume.wait(10)
        yield from chunks(tone(0.01))

    fake.answer = answer
    configured(socket)
    tell(socket, "input.text", text=(ONE + TWO) * 2)
    tell(socket, "input.done")
    wait_until(lambda: len(fake.requests) == 2)  # the second is spoken while the first waits
    resume.set()
    assert sentences(until_done(socket)) == [ONE.strip(), TWO.strip()] * 2
    begun = {text_of(inputs_of(request)) for request in fake.requests[:2]}
    assert begun == {ONE.strip(), TWO.strip()}


def test_barge_in_is_answered_by_the_seconds_sent(
    socket: ClientConnection, fake: FakeServer
) -> None:
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        yield next(chunks(tone(0.5), tone(0.5)))
        resume.wait(10)

    fake.answer = answer
    configured(socket)
    tell(socket, "input.text", text=(ONE + TWO) * 3)
    assert hear(socket)["type"] == "audio.start" and isinstance(hear(socket), bytes)
    tell(socket, "input.cancel")
    cancelled = hear(socket)
    assert cancelled["type"] == "input.cancelled"
    assert cancelled["seconds_sent"] == pytest.approx(0.5)
    assert cancelled["utterances"][0]["sentence_index"] == 0
    try:
        names = lambda: [r.model_name for r in fake.requests]  # noqa: E731
        wait_until(lambda: names().count("fish_cancel") == 2)  # both that were spoken
        assert names().count("fish_tts_stream") == 2  # and the others never began
    finally:
        resume.set()
    fake.answer = lambda _: chunks(tone(0.01))
    tell(socket, "input.text", text="Go on.")
    tell(socket, "input.done")
    messages = until_done(socket)
    assert sentences(messages) == ["Go on."] and messages[-1]["utterance_index"] == 1


def test_each_sentence_is_a_file_of_its_own(socket: ClientConnection) -> None:
    configured(socket, response_format="wav")
    tell(socket, "input.text", text=ONE + TWO)
    tell(socket, "input.done")
    files = [m for m in until_done(socket) if isinstance(m, bytes)]
    assert [data[:4] for data in files] == [b"RIFF"] * 2


def test_a_sentence_that_fails_says_so_and_the_next_is_spoken(
    socket: ClientConnection, fake: FakeServer
) -> None:
    def answer(inputs: dict) -> Iterator[dict]:
        if text_of(inputs) == ONE.strip():
            yield {"nonsense": tone(0.1)}
        yield from chunks(tone(0.01))

    fake.answer = answer
    configured(socket)
    tell(socket, "input.text", text=ONE + TWO)
    tell(socket, "input.done")
    messages = until_done(socket)
    assert messages[0]["type"] == "audio.done"
    assert messages[0]["error"]["code"] == "server_failed"
    assert sentences(messages) == [TWO.strip()]


def test_nothing_to_say_is_a_turn_without_sentences(socket: ClientConnection) -> None:
    configured(socket)
    tell(socket, "input.done")
    assert until_done(socket) == [
        {"type": "session.done", "utterance_index": 0, "total_sentences": 0}
    ]


def refused(socket: ClientConnection) -> dict:
    """The error that ends a session."""
    message = hear(socket)
    assert message["type"] == "error", message
    with pytest.raises(ConnectionClosed):
        hear(socket)
    assert socket.close_code == 1008
    return message["error"]


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (b"\0\1", "binary"),
        ("{", "no JSON"),
        ("[]", "no type"),
        ('{"type": 1}', "no type"),
        ('{"type": "input.text", "text": "x"}', "first message"),
        (json.dumps({**CONFIG, "voice": "nobody"}), "no voice 'nobody'"),
        (json.dumps({**CONFIG, "voice": None}), "voice is missing"),
        (json.dumps({**CONFIG, "speed": 0}), "speed"),
        (json.dumps({**CONFIG, "input": "x"}), "input is no field"),
        (json.dumps({**CONFIG, "split_granularity": "word"}), "split_granularity"),
        (json.dumps({**CONFIG, "more": 1}), "more is no field"),
    ],
)
def test_a_session_that_begins_wrong_ends(
    socket: ClientConnection, first: str | bytes, words: str
) -> None:
    socket.send(first)
    assert words in refused(socket)["message"]


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"type": "input.more"}, "expected input.text"),
        ({"type": "input.text"}, "text is missing"),
        ({"type": "input.text", "text": 7}, "text is 7"),
        ({"type": "input.text", "text": "x", "more": 1}, "more is no field"),
        ({"type": "input.text", "text": "\ud800"}, "surrogate"),
        ({"type": "input.text", "text": "x" * 200_000}, "characters"),
    ],
)
def test_a_wrong_message_ends_the_session(
    socket: ClientConnection, message: dict, words: str
) -> None:
    configured(socket)
    socket.send(json.dumps(message))
    assert words in refused(socket)["message"]


def test_a_flood_of_text_ends_the_session(socket: ClientConnection, fake: FakeServer) -> None:
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        resume.wait(20)
        yield from chunks(tone(0.01))

    fake.answer = answer
    configured(socket)
    with contextlib.suppress(ConnectionClosed):
        for _ in range(30):
            tell(socket, "input.text", text=ONE * 400)
    try:
        assert "wait to be spoken" in refused(socket)["message"]
    finally:
        resume.set()


@pytest.mark.parametrize("begun", [False, True])
def test_silence_ends_the_session(
    socket: ClientConnection, monkeypatch: pytest.MonkeyPatch, begun: bool, gateway: Gateway
) -> None:
    monkeypatch.setattr(live, "CONFIG_S", 0.3)
    monkeypatch.setattr(live, "IDLE_S", 0.3)
    with opened(gateway) as another:  # which begins with the short patience
        if begun:
            configured(another)
        assert "nothing came for 0.3 s" in refused(another)["message"]


def test_who_leaves_frees_the_slot(gateway: Gateway, fake: FakeServer) -> None:
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        yield next(chunks(tone(0.5), tone(0.5)))
        resume.wait(10)

    fake.answer = answer
    with opened(gateway) as socket:
        configured(socket)
        tell(socket, "input.text", text=ONE + TWO)
        hear(socket)
    try:
        wait_until(lambda: "fish_cancel" in [r.model_name for r in fake.requests])
    finally:
        resume.set()


def test_pages_of_other_origins_are_refused(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as error, opened(gateway, origin="https://b.c"):
        pass
    assert error.value.response.status_code == 403
    with opened(gateway, origin=gateway.url) as socket:
        assert configured(socket)["type"] == "session.configured"
