"""Fish Audio's protocol: what its SDK sends, and what it reads."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import msgpack
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.gateway import Gateway, chunks, tone
from support.launched import wait_until
from support.script_server import text_of

# What the SDK sends when a user gives a text only (fish-audio-sdk 1.3.0).
SDK = {
    "text": "Good morning.", "chunk_length": 200, "format": "mp3", "sample_rate": None,
    "mp3_bitrate": 128, "opus_bitrate": 32, "references": [], "reference_id": None,
    "normalize": True, "latency": "balanced", "prosody": None, "top_p": 0.7, "temperature": 0.7,
}  # fmt: skip


def recording() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(2.0), RATE_HZ, format="WAV")
    return file.getvalue()


def answering(inputs: dict) -> Iterator[dict]:
    if "reference_audio" in inputs:
        yield {
            "codes": np.full((1, 10, 40), 7, np.int64),
            "reference_frames": np.array([[40]], np.int32),
            "checkpoint_id": np.array([[b"fake"]], np.object_),
        }
    else:
        yield from chunks(tone(0.25), tone(0.25))


@pytest.fixture(autouse=True)
def _speaks(gateway: Gateway, fake: FakeServer) -> None:
    fake.answer = answering


def post(gateway: Gateway, kind: str = "msgpack", **fields: object):
    body = {**SDK, **fields}
    data = msgpack.packb(body) if kind == "msgpack" else json.dumps(body).encode()
    headers = {"Content-Type": f"application/{kind}", "model": "s1"}
    return gateway.http.post("/v1/tts", content=data, headers=headers)


@pytest.mark.parametrize("kind", ["msgpack", "json"])
def test_a_text_is_spoken(gateway: Gateway, fake: FakeServer, kind: str) -> None:
    answer = post(gateway, kind)
    assert answer.headers["content-type"] == "audio/mpeg" and len(answer.content) > 4000
    inputs = inputs_of(fake.requests[0])
    assert text_of(inputs) == "Good morning." and "reference_codes" not in inputs
    assert inputs["top_p"].item() == inputs["temperature"].item() == pytest.approx(0.7)
    assert answer.headers["x-ignored-fields"] == "chunk_length, latency, normalize"


def test_pcm_has_the_models_own_rate(gateway: Gateway) -> None:
    expected = np.rint(np.concatenate([tone(0.25)] * 2) * 32767).astype("<i2").tobytes()
    assert post(gateway, format="pcm").content == expected
    assert len(post(gateway, format="pcm", sample_rate=8000).content) == 8000


def test_tempo_volume_and_bit_rate_act(gateway: Gateway) -> None:
    loud = np.frombuffer(post(gateway, format="pcm").content, "<i2")
    quiet = post(gateway, format="pcm", prosody={"speed": 1.0, "volume": -20.0}).content
    np.testing.assert_allclose(np.frombuffer(quiet, "<i2"), loud / 10, atol=1)
    fast = post(gateway, format="pcm", prosody={"speed": 2.0, "volume": 0}).content
    assert len(fast) == pytest.approx(len(loud), rel=0.2)  # half the samples, two bytes each
    small, large = (len(post(gateway, mp3_bitrate=kbps).content) for kbps in (64, 192))
    assert large == pytest.approx(3 * small, rel=0.1)


@pytest.mark.parametrize("kind", ["msgpack", "json", "form"])
def test_recordings_come_along(gateway: Gateway, fake: FakeServer, kind: str) -> None:
    audio = recording()
    if kind == "form":
        form = {"text": "Hello.", "format": "pcm", "seed": "7", "reference_text": "Hi"}
        files = {"reference_audio": audio}
        answer = gateway.http.post("/v1/tts", data=form, files=files)
    else:
        given = audio if kind == "msgpack" else base64.b64encode(audio).decode()
        answer = post(gateway, kind, format="pcm", references=[{"audio": given, "text": "Hi"}])
    assert answer.status_code == 200, answer.text
    sent = inputs_of(fake.requests[-1])
    assert sent["reference_codes"].shape == (1, 10, 40) and sent["reference_text"].item() == b"Hi"


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"text": ""}, 422, "text"),
        ({"format": "ogg"}, 422, "format"),
        ({"reference_id": "nobody"}, 404, "no voice 'nobody'"),
        ({"top_p": 2.0}, 422, "top_p"),
        ({"prosody": {"speed": 9}}, 422, "prosody.speed"),
        ({"references": [{"audio": b"PK", "text": "x"}]}, 422, "no audio"),
        ({"nonsense": 1}, 422, "nonsense is no field"),
    ],
)
def test_errors_are_two_keys(gateway: Gateway, fields: dict, status: int, words: str) -> None:
    answer = post(gateway, **fields)
    assert answer.status_code == status and set(answer.json()) == {"status", "message"}
    assert words in answer.json()["message"] and answer.json()["status"] == status


@pytest.mark.parametrize("body", [b"\xc1", b"\x01", b"\x81\x01\x01", b""])
def test_a_body_that_is_no_msgpack_object_is_refused(gateway: Gateway, body: bytes) -> None:
    headers = {"Content-Type": "application/msgpack"}
    assert gateway.http.post("/v1/tts", content=body, headers=headers).status_code == 400


def test_references_are_the_voices(gateway: Gateway, fake: FakeServer, voices: Path) -> None:
    http, add = gateway.http, {"id": "Carol", "text": "Good morning."}
    added = http.post("/v1/references/add", data=add, files={"audio": recording()})
    assert added.json()["success"] and added.json()["reference_id"] == "Carol"
    assert http.get("/v1/references/list").json()["reference_ids"] == ["Carol"]
    assert post(gateway, reference_id="Carol").status_code == 200
    names = {"old_reference_id": "Carol", "new_reference_id": "Dora"}
    assert http.put("/v1/references/update", json=names).json()["new_reference_id"] == "Dora"
    assert {path.name for path in voices.iterdir()} == {"Dora.npz", "Dora.json"}
    packed = msgpack.packb(add | {"id": "Eve", "audio": recording()})
    headers = {"Content-Type": "application/msgpack"}
    assert http.post("/v1/references/add", content=packed, headers=headers).status_code == 200
    again = http.post("/v1/references/add", content=packed, headers=headers)
    assert (again.status_code, set(again.json())) == (409, {"status", "message"})
    for name in ("Dora", "Eve"):
        body = json.dumps({"reference_id": name})
        answer = http.request("DELETE", "/v1/references/delete", content=body)
        assert answer.json()["success"]
    assert http.get("/v1/references/list").json()["reference_ids"] == []


@pytest.fixture
def socket(gateway: Gateway) -> Iterator[ClientConnection]:
    url = f"ws{gateway.url.removeprefix('http')}/v1/tts/live"
    with connect(url, proxy=None, open_timeout=20) as connection:
        yield connection


def tell(socket: ClientConnection, event: str, **fields: object) -> None:
    socket.send(msgpack.packb({"event": event, **fields}))


def hear(socket: ClientConnection) -> dict:
    return msgpack.unpackb(socket.recv(timeout=20))


def test_live_text_is_one_track(socket: ClientConnection, fake: FakeServer) -> None:
    tell(socket, "start", request={**SDK, "text": "", "format": "wav"})
    words = "This is the first sentence. And here comes the second. "
    for word in words.split(" "):
        tell(socket, "text", text=f"{word} ")
    first = hear(socket)  # before the text is complete
    assert first["event"] == "audio" and first["audio"][:4] == b"RIFF"
    tell(socket, "flush")
    tell(socket, "stop")
    audio = [first["audio"]]
    while (event := hear(socket))["event"] == "audio":
        audio.append(event["audio"])
    assert event == {"event": "finish", "reason": "stop"}
    assert len(b"".join(audio)) == 44 + 2 * 2 * len(np.concatenate([tone(0.25)] * 2))
    texts = [text_of(inputs_of(request)) for request in fake.requests]
    assert texts == ["This is the first sentence.", "And here comes the second."]


@pytest.mark.parametrize(
    "messages",
    [
        ["text as text"],
        [b"\xc1"],
        [{"event": "text", "text": "x"}],
        [{"event": "start", "request": {**SDK, "format": "ogg"}}],
        [{"event": "start", "request": SDK}, {"event": "more"}],
        [{"event": "start", "request": SDK}, {"event": "text", "text": 1}],
        [{"event": "start", "request": {**SDK, "reference_id": "nobody"}}, {"event": "stop"}],
    ],
)
def test_what_is_wrong_finishes_with_an_error(socket: ClientConnection, messages: list) -> None:
    for message in messages:
        socket.send(msgpack.packb(message) if isinstance(message, dict) else message)
    found = hear(socket)
    while found["event"] == "audio":
        found = hear(socket)
    assert found["reason"] == "error" and found["message"]
    with pytest.raises(ConnectionClosed):
        hear(socket)


def test_no_text_is_no_error(socket: ClientConnection) -> None:
    tell(socket, "start", request={**SDK, "text": ""})
    tell(socket, "stop")
    assert hear(socket) == {"event": "finish", "reason": "stop"}


def test_who_leaves_frees_slot_and_thread(socket: ClientConnection, gateway: Gateway) -> None:
    tell(socket, "start", request=SDK)
    tell(socket, "flush")
    hear(socket)
    socket.close()
    wait_until(lambda: "in_flight 0.0" in gateway.http.get("/metrics").text)
