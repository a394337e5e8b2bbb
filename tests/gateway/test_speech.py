"""`POST /v1/audio/speech` against a server whose answers the test decides."""

import base64
import hashlib
import http.client
import json
import socket
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx2
import numpy as np
import pytest
import soxr

from gateway.formats import FORMATS
from support.fake_server import RATE_HZ, FakeServer, Refusal, inputs_of
from support.gateway import SPEECH, Gateway, chunks, tone
from support.launched import wait_until
from support.script_server import text_of

Event = dict[str, Any]


def events(text: str) -> list[Event]:
    assert text.endswith("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n")[:-1]]


def expected_pcm(seconds: float = 1.0, rate_hz: int = 24_000) -> bytes:
    resampled = soxr.resample(tone(seconds), RATE_HZ, rate_hz)
    return np.rint(np.clip(resampled, -1, 1) * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_events_and_the_whole_are_the_same(gateway: Gateway, format: str) -> None:
    streamed = gateway.speak(response_format=format)
    assert streamed.status_code == 200
    assert streamed.headers["content-type"].startswith(FORMATS[format].content_type)
    assert streamed.headers["transfer-encoding"] == "chunked"
    assert streamed.headers["x-accel-buffering"] == "no"
    answer = gateway.speak(response_format=format, stream_format="sse")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *deltas, done = events(answer.text)
    assert {e["type"] for e in deltas} == {"speech.audio.delta"} and len(deltas) > 1
    assert b"".join(base64.b64decode(e["audio"]) for e in deltas) == streamed.content
    assert done["type"] == "speech.audio.done"
    assert done["sha256"] == hashlib.sha256(streamed.content).hexdigest()
    assert done["seconds"] == pytest.approx(1.0, abs=1e-4)
    assert done["usage"] == {"input_tokens": 13, "output_tokens": 22, "total_tokens": 35}
    whole = gateway.speak(response_format=format, stream=False)
    assert int(whole.headers["content-length"]) == len(whole.content)
    if format not in ("wav", "flac"):  # whose header has the sizes
        assert whole.content == streamed.content


def test_mp3_is_what_an_app_gets_that_asks_for_nothing(gateway: Gateway) -> None:
    assert gateway.speak().headers["content-type"] == "audio/mpeg"


def test_pcm_is_24_khz_unless_asked_otherwise(gateway: Gateway) -> None:
    answer = gateway.speak(response_format="pcm")
    assert answer.content == expected_pcm()
    assert answer.headers["x-sample-rate"] == "24000" and answer.headers["x-bit-depth"] == "16"
    assert gateway.speak(response_format="pcm", sample_rate=8000).content == expected_pcm(1.0, 8000)
    native = gateway.speak(response_format="pcm", sample_rate=RATE_HZ).content
    assert native == np.rint(tone(1.0) * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
@pytest.mark.parametrize("format", FORMATS)
def test_the_first_audio_leaves_alone_and_at_once(
    gateway: Gateway, fake: FakeServer, format: str, stream_format: str
) -> None:
    heard = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        first, last = chunks(tone(1.0)[:16_384], tone(1.0)[16_384:])
        yield first
        assert heard.wait(10)
        yield last

    fake.answer = answer
    fields = {**SPEECH, "response_format": format, "stream_format": stream_format}
    with gateway.http.stream("POST", "/v1/audio/speech", json=fields) as answered:
        pieces = answered.iter_raw()
        first = next(pieces)
        heard.set()
        rest = b"".join(pieces)
    assert first and rest
    if format == "wav" and stream_format == "audio":
        assert first[:4] == b"RIFF" and len(first) > 44


def test_options_voice_and_text_reach_the_model(gateway: Gateway, fake: FakeServer) -> None:
    headers = {"X-Request-Id": "app-1", "traceparent": "00-0af7-b7ad-01"}
    asked = {**SPEECH, "seed": 7, "temperature": 0.5, "top_p": 0.9, "repetition_penalty": 1.2,
             "max_new_tokens": 99}  # fmt: skip
    answer = gateway.http.post("/v1/audio/speech", json=asked, headers=headers)
    assert answer.headers["x-request-id"] == "app-1"
    [request] = fake.requests
    assert request.id == "app-1" and ("traceparent", "00-0af7-b7ad-01") in fake.metadata
    inputs = inputs_of(request)
    assert text_of(inputs) == "Good morning."
    sent = {name: inputs[name].item() for name in asked if name in inputs}
    assert sent == pytest.approx({n: asked[n] for n in asked if n not in SPEECH})


def test_a_long_text_is_spoken_in_parts_and_joined(gateway: Gateway, fake: FakeServer) -> None:
    text = " ".join(f"This is sentence number {number} of a long text." for number in range(20))

    def answer(inputs: dict) -> Iterator[dict]:
        yield from chunks(np.full(2205, len(text_of(inputs)) / 1000, np.float32))

    fake.answer = answer
    answered = gateway.speak(input=text, response_format="pcm", sample_rate=RATE_HZ).content
    parts = sorted((text_of(inputs_of(r)) for r in fake.requests), key=text.index)
    assert len(parts) > 1 and " ".join(parts) == text
    levels = np.frombuffer(answered, "<i2").reshape(len(parts), 2205)
    np.testing.assert_array_equal(levels[:, 0], [round(32.767 * len(part)) for part in parts])


@pytest.mark.parametrize("whole", [True, False])
def test_the_error_of_a_part_has_the_words_of_the_error(
    gateway: Gateway, fake: FakeServer, whole: bool
) -> None:
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "fish_llama: invalid request: no")
        yield

    fake.answer = answer
    text = "Good morning." if whole else "This is a long text, spoken in parts. " * 20
    status, error = gateway.error(input=text)
    assert (status, error["message"]) == (422, "fish_llama: invalid request: no")


WRONG = [
    ({"input": None}, 422, "input", "missing_field"),
    ({"model": None}, 422, "model", "missing_field"),
    ({"voice": None}, 422, "voice", "missing_field"),
    ({"input": ""}, 422, "input", "invalid_value"),
    ({"input": " \n"}, 422, "input", "invalid_value"),
    ({"input": 7}, 422, "input", "invalid_value"),
    ({"input": "\ud800"}, 422, "input", "invalid_value"),
    ({"input": "a" * 100_000}, 422, "input", "text_too_long"),
    ({"response_format": "ogg"}, 422, "response_format", "invalid_value"),
    ({"speed": 0}, 422, "speed", "invalid_value"),
    ({"speed": 4.01}, 422, "speed", "invalid_value"),
    ({"speed": "1"}, 422, "speed", "invalid_value"),
    ({"speed": True}, 422, "speed", "invalid_value"),
    ({"stream_format": "ws"}, 422, "stream_format", "invalid_value"),
    ({"stream_format": "sse", "stream": False}, 422, "stream", "invalid_value"),
    ({"sample_rate": 12345}, 422, "sample_rate", "invalid_value"),
    ({"sample_rate": 44_100, "response_format": "opus"}, 422, "sample_rate", "invalid_value"),
    ({"seed": -1}, 422, "seed", "invalid_value"),
    ({"seed": 1.5}, 422, "seed", "invalid_value"),
    ({"seed": True}, 422, "seed", "invalid_value"),
    ({"temperature": "hot"}, 422, "temperature", "invalid_value"),
    ({"top_p": 1.1}, 422, "top_p", "invalid_value"),
    ({"nonsense": 1}, 422, "nonsense", "unknown_field"),
    ({"instructions": "Whisper."}, 422, "instructions", "invalid_value"),
    ({"model": "gpt-9"}, 404, "model", "model_not_found"),
    ({"voice": "nobody"}, 404, "voice", "voice_not_found"),
    ({"voice": 7}, 422, "voice", "invalid_value"),
    ({"voice": {"id": "voice_1"}}, 404, "voice", "voice_not_found"),
    ({"voice": "../../etc/passwd"}, 404, "voice", "voice_not_found"),
    ({"voice": "/etc/passwd.npz"}, 404, "voice", "voice_not_found"),
    ({"references": [{"audio": "http://a/b.wav", "text": "x"}]}, 422, "references.0.audio",
     "invalid_value"),
    ({"references": [{"audio": "?", "text": "x"}]}, 422, "references.0.audio", "invalid_value"),
    ({"references": [{"audio": "AAAA"}]}, 422, "references.0.text", "missing_field"),
    ({"references": [{"audio": "AAAA", "text": "x"}] * 9}, 422, "references", "invalid_value"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "status", "param", "code"), WRONG)
def test_a_wrong_field_is_named(
    gateway: Gateway, fake: FakeServer, fields: dict, status: int, param: str, code: str
) -> None:
    body = json.dumps({**SPEECH, **fields}).encode()  # httpx would refuse half a surrogate pair
    request_id = {"X-Request-Id": uuid.uuid4().hex}
    answer = gateway.http.post("/v1/audio/speech", content=body, headers=request_id)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (
        status, param, code,
    )  # fmt: skip
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 400
    assert answer.headers["x-request-id"] in request_id.values()
    # What the test before has left may still come.
    assert not any(request.id in request_id.values() for request in fake.requests)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"\xff", b'{"a": NaN}', b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(gateway: Gateway, body: bytes) -> None:
    answer = gateway.http.post("/v1/audio/speech", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("fish_llama: overloaded: the queue is full", 429, "too_many_requests"),
        ("fish_llama: invalid request: too long", 422, "invalid_value"),
        ("Request for unknown model: 'fish_tts_stream' is not found", 503, "server_unavailable"),
        ("fish_llama: cancelled: its timeout has passed", 504, "timeout"),
        ("fish_llama: boom in /secret/path.py", 500, "server_failed"),
    ],
)
@pytest.mark.parametrize("stream_format", ["audio", "sse"])
def test_what_fails_before_the_first_audio_has_a_true_status(
    gateway: Gateway, fake: FakeServer, message: str, status: int, code: str, stream_format: str
) -> None:
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INTERNAL, message)
        yield

    fake.answer = answer
    got, error = gateway.error(stream_format=stream_format)
    assert (got, error["code"]) == (status, code)
    assert "/secret" not in error["message"]
    retry = gateway.speak().headers.get("retry-after")
    assert (retry is not None) == (status in (429, 503))


def test_nothing_spoken_is_an_error(gateway: Gateway, fake: FakeServer) -> None:
    fake.answer = lambda _: chunks(np.zeros(0, np.float32))
    status, error = gateway.error(input="Hm.")
    assert (status, error["code"]) == (422, "no_speech")


def failing_later(_: dict) -> Iterator[dict]:
    yield next(chunks(tone(0.5), tone(0.5)))
    raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: boom")


def test_what_fails_later_cuts_the_audio_off(gateway: Gateway, fake: FakeServer) -> None:
    fake.answer = failing_later
    with pytest.raises(httpx2.RemoteProtocolError):
        gateway.speak(response_format="pcm")
    *_, last = events(gateway.speak(stream_format="sse").text)
    assert last["type"] == "speech.audio.error" and last["error"]["code"] == "server_failed"
    status, _ = gateway.error(stream=False)  # which has sent nothing yet
    assert status == 500


def raw(gateway: Gateway, request: bytes) -> bytes:
    """What a socket gets for these bytes, until the gateway closes it."""
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_http_1_0_gets_the_whole_with_its_length(gateway: Gateway) -> None:
    body = json.dumps({**SPEECH, "response_format": "wav"}).encode()
    head = f"POST /v1/audio/speech HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    headers, _, data = raw(gateway, head + body).partition(b"\r\n\r\n")
    assert f"content-length: {len(data)}".encode() in headers.lower()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8


def test_a_body_that_is_cut_off_is_no_request(gateway: Gateway, fake: FakeServer) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    head = b'POST /v1/audio/speech HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{"model"'
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head)
    assert gateway.speak().status_code == 200  # and the gateway lives
    assert len(fake.requests) == 1


@pytest.mark.parametrize("after", ["before the first audio", "after the first audio"])
def test_a_caller_who_leaves_cancels_its_request(
    gateway: Gateway, fake: FakeServer, after: str
) -> None:
    resume = threading.Event()

    def answer(_: dict) -> Iterator[dict]:
        first, second = chunks(tone(0.5), tone(0.5))
        if after.startswith("after"):
            yield first
        fake.requests.append(None)  # it is being spoken
        resume.wait(10)
        yield second

    fake.answer = answer
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"))
    connection.request("POST", "/v1/audio/speech", json.dumps(SPEECH))
    try:
        wait_until(lambda: None in fake.requests)
        if after.startswith("after"):
            assert connection.getresponse().read(1)
        connection.close()
        names = lambda: [r.model_name for r in fake.requests if r is not None]  # noqa: E731
        wait_until(lambda: "fish_cancel" in names(), 2)
    finally:
        resume.set()
