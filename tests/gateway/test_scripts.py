"""`POST /v1/audio/scripts`: many speakers, one track, captions true to the sample."""

import base64
import json
from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer, Refusal
from support.gateway import Gateway, chunks
from support.script_server import text_of

SCRIPT = [
    {"speaker_id": "Alice", "text": "1", "silence_after_s": 0.5},
    {"speaker_id": "Bob", "text": "22"},
]


def spoken(inputs: dict) -> Iterator[dict]:
    """A tenth of a second for each character, of the value of the first."""
    text = text_of(inputs)
    yield from chunks(np.full(4410 * len(text), int(text[0]) / 10, np.float32))


@pytest.fixture(autouse=True)
def _speaks(gateway: Gateway, fake: FakeServer) -> None:
    fake.answer = spoken


def post(gateway: Gateway, **fields: object):
    body = {"script": SCRIPT, "response_format": "pcm", "sample_rate": RATE_HZ, **fields}
    return gateway.http.post("/v1/audio/scripts", json=body)


def expected() -> bytes:
    track = np.concatenate([np.full(4410, 0.1), np.zeros(22_050), np.full(8820, 0.2)])
    return np.rint(track.astype(np.float32) * 32767).astype("<i2").tobytes()


def test_a_script_becomes_one_track(gateway: Gateway) -> None:
    answer = post(gateway, voices={"Alice": "alloy"})
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.content == expected()


def test_captions_come_beside_the_audio(gateway: Gateway) -> None:
    answer = post(gateway, captions="srt").json()
    assert base64.b64decode(answer["audio"]) == expected()
    assert answer["captions"] == (
        "1\n00:00:00,000 --> 00:00:00,100\nAlice: 1\n\n2\n00:00:00,600 --> 00:00:00,800\nBob: 22\n"
    )
    assert post(gateway, captions="vtt").json()["captions"].startswith("WEBVTT\n")
    [_, bob] = json.loads(post(gateway, captions="json").json()["captions"])
    assert round(bob["start"] * RATE_HZ) == 4410 + 22_050


def test_captions_are_events_as_they_come_true(gateway: Gateway) -> None:
    answer = post(gateway, captions="vtt", stream_format="sse")
    events = [json.loads(line[6:]) for line in answer.text.split("\n\n")[:-1]]
    kinds = [event["type"].removeprefix("speech.") for event in events]
    assert kinds.index("caption") < len(kinds) - 1 - kinds[::-1].index("audio.delta")
    audio = b"".join(base64.b64decode(e["audio"]) for e in events if "audio" in e)
    assert audio == expected()
    captions = [(e["speaker"], e["start"], e["end"]) for e in events if e["type"][7:] == "caption"]
    assert captions == [("Alice", 0.0, 0.1), ("Bob", 0.6, pytest.approx(0.8))]
    assert events[-1]["captions"].startswith("WEBVTT") and events[-1]["samples"] == 35_280


def test_captions_keep_up_with_another_tempo(gateway: Gateway) -> None:
    [_, bob] = json.loads(post(gateway, captions="json", speed=2.0).json()["captions"])
    assert (bob["start"], bob["end"]) == (pytest.approx(0.3), pytest.approx(0.4))


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"script": None}, 422, "script"),
        ({"script": []}, 422, "script"),
        ({"script": ["a"]}, 422, "script.0"),
        ({"script": [{"speaker_id": "A"}]}, 422, "script"),
        ({"script": [{"speaker_id": "A", "text": "a" * 5000}]}, 422, "script"),
        ({"script": SCRIPT * 501}, 422, "script"),
        ({"voices": {"Carol": "alloy"}}, 422, "voices"),
        ({"voices": {"Alice": "nobody"}}, 404, "voice"),
        ({"voices": "alloy"}, 422, "voices"),
        ({"captions": "ass"}, 422, "captions"),
        ({"silence_s": 61}, 422, "silence_s"),
        ({"on_error": "ignore"}, 422, "on_error"),
        ({"model": "gpt-9"}, 404, "model"),
        ({"seed": -1}, 422, "seed"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_a_wrong_field_is_named(gateway: Gateway, fields: dict, status: int, param: str) -> None:
    answer = post(gateway, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)


def test_a_segment_that_fails_is_named_or_skipped(gateway: Gateway, fake: FakeServer) -> None:
    def failing(inputs: dict) -> Iterator[dict]:
        if text_of(inputs) == "1":
            raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: invalid request: no")
        yield from spoken(inputs)

    fake.answer = failing
    answer = post(gateway)
    assert answer.status_code == 422
    assert "segment 1 of 2 (Alice" in answer.json()["error"]["message"]
    skipped = json.loads(post(gateway, on_error="skip", captions="json").json()["captions"])
    assert skipped[0]["text"].startswith("[not spoken") and "error" not in skipped[1]
