"""The gateway in front of the real tritonserver, with the official `openai` package and curl."""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import numpy as np
import pytest
import soundfile
import soxr
from websockets.sync.client import connect

from gateway.formats import FORMATS
from launch.server import Server
from support.gateway import Gateway, running
from support.launched import wait_until
from support.raw import llama_metrics
from voicereel import Client, VoiceFeatures
from voicereel.library import VoiceLibrary

if TYPE_CHECKING:
    from openai import OpenAI

pytestmark = pytest.mark.server

PROJECT = Path(__file__).resolve().parents[2]
ALICE = PROJECT / "assets" / "voices" / "alice.flac"
WORDS = "Please bring me seven candles and some chocolate."
TEXT = "Hello from a real server."
# Chunks of one size, since float32 differs in the last bits where windows have other shapes.
ASKED = {"seed": 5, "max_new_tokens": 60, "first_chunk_frames": 8, "max_chunk_frames": 8}


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url, timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def alice(client: Client) -> VoiceFeatures:
    return client.encode_voice(ALICE, WORDS)


@pytest.fixture(scope="module")
def real(server: Server, alice: VoiceFeatures, voices: Path) -> Iterator[Gateway]:
    VoiceLibrary(voices).add("Alice", alice)
    with running(server.grpc_url, voices, max_streams=80) as gateway:
        yield gateway


@pytest.fixture
def app(real: Gateway) -> "Iterator[OpenAI]":
    import openai  # takes 1.5 s, in every process that collects tests

    with openai.OpenAI(base_url=f"{real.url}/v1", api_key="any", max_retries=0) as app:
        yield app


def expected(
    client: Client, voice: VoiceFeatures | None, rate_hz: int = 24_000, text: str = TEXT
) -> np.ndarray:
    """int16 samples of the client's own stream."""
    waveform = np.concatenate([c.waveform for c in client.stream(text, voice, **ASKED)])
    return np.rint(np.clip(soxr.resample(waveform, 44_100, rate_hz), -1, 1) * 32767).astype("<i2")


@pytest.mark.parametrize("format", FORMATS)
def test_the_official_package_hears_the_same_whole_and_streamed(
    app: "OpenAI", client: Client, alice: VoiceFeatures, format: str
) -> None:
    asked = {"model": "gpt-4o-mini-tts", "voice": "Alice", "input": TEXT, "extra_body": ASKED}
    whole = app.audio.speech.create(response_format=format, **asked).content
    with app.audio.speech.with_streaming_response.create(response_format=format, **asked) as answer:
        assert answer.headers["content-type"].startswith(FORMATS[format].content_type)
        pieces = list(answer.iter_bytes())
    assert len(pieces) > 1 and b"".join(pieces) == whole
    if format in ("pcm", "wav"):
        samples = np.frombuffer(whole[44 * (format == "wav") :], "<i2")
        np.testing.assert_array_equal(samples, expected(client, alice))


def test_what_is_streamed_is_what_the_unary_door_answers(
    real: Gateway, client: Client, alice: VoiceFeatures
) -> None:
    audio = client.synthesize(TEXT, alice, seed=5, max_new_tokens=60)
    answer = real.speak(voice="Alice", input=TEXT, response_format="flac", stream=False, seed=5,
                        max_new_tokens=60)  # fmt: skip
    heard, rate_hz = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    assert rate_hz == audio.sample_rate_hz and len(heard) == len(audio)
    difference = np.abs(heard - np.rint(np.clip(audio.waveform, -1, 1) * 32767))
    assert difference.max() <= 4  # 1e-4 of full scale: windows of other shapes


def test_events_carry_the_audio_and_its_hash(real: Gateway) -> None:
    asked = {"voice": "Alice", "input": TEXT, "response_format": "opus", **ASKED}
    lines = real.speak(stream_format="sse", **asked).text.split("\n\n")[:-1]
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in lines]
    data = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert data == real.speak(**asked).content
    assert done["sha256"] == hashlib.sha256(data).hexdigest()


def test_errors_arrive_as_the_packages_own(app: "OpenAI", real: Gateway) -> None:
    import openai

    asked = {"model": "tts-1", "voice": "alloy", "input": TEXT}
    with pytest.raises(openai.NotFoundError) as error:
        app.audio.speech.create(**asked | {"voice": "nobody"})
    assert error.value.code == "voice_not_found" and error.value.param == "voice"
    with pytest.raises(openai.NotFoundError):
        app.audio.speech.create(**asked | {"model": "gpt-9"})
    with pytest.raises(openai.UnprocessableEntityError):
        app.audio.speech.create(**asked | {"input": " "})
    with pytest.raises(openai.UnprocessableEntityError, match="max_new_tokens"):
        app.audio.speech.create(**asked, extra_body={"max_new_tokens": 0})
    assert next(model.id for model in app.models.list()) == "voicereel"


def test_a_reference_that_comes_along_is_a_voice(real: Gateway, client: Client) -> None:
    recording = base64.b64encode(ALICE.read_bytes()).decode()
    asked = {"input": TEXT, "response_format": "pcm", **ASKED}
    given = {"voice": "default", "references": [{"audio": recording, "text": WORDS}]}
    assert real.speak(**asked, **given).content == real.speak(**asked, voice="Alice").content
    joined = real.speak(**asked, **given | {"voice": "Alice"}).content
    assert joined and joined != real.speak(**asked, voice="Alice").content


def test_64_callers_at_once_and_some_leave(server: Server, real: Gateway) -> None:
    def solo(number: int) -> bytes:
        answer = real.speak(
            **ASKED | {"seed": number % 4, "max_new_tokens": 24}, input=f"Number {number % 4}.",
            voice="Alice" if number % 2 else "default", response_format="pcm",
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        return answer.content

    def leaves(number: int) -> None:
        fields = {"model": "tts-1", "input": "I leave.", "voice": "Alice", "max_new_tokens": 400}
        with (
            httpx2.Client(base_url=real.url, timeout=60, trust_env=False) as http,
            http.stream("POST", "/v1/audio/speech", json=fields) as answer,
        ):
            next(answer.iter_raw())

    alone = [solo(number) for number in range(4)]
    threads = threading.active_count()
    with ThreadPoolExecutor(64) as pool:
        jobs = [pool.submit(leaves if i % 5 == 0 else solo, i) for i in range(64)]
        heard = {i: job.result() for i, job in enumerate(jobs) if i % 5}
        for job in jobs:
            job.result()
    assert {i for i, data in heard.items() if not alike(data, alone[i % 4])} == set()
    assert not alike(alone[0], alone[2])
    wait_until(lambda: inside(server) == 0, 30)
    wait_until(lambda: threading.active_count() <= threads + 70)  # the pool keeps its threads


def alike(one: bytes, other: bytes) -> bool:
    """Whether samples are equal but for 1e-4 of full scale: windows are decoded in batches."""
    first, second = (np.frombuffer(data, "<i2").astype(int) for data in (one, other))
    return len(first) == len(second) and np.abs(first - second).max() <= 4


def inside(server: Server) -> float:
    now = llama_metrics(server)
    return sum(now.get(f"fish_llama_{n}", 0) for n in ("active_slots", "waiting_requests"))


def test_a_caller_who_leaves_frees_the_slot(server: Server, real: Gateway) -> None:
    wait_until(lambda: inside(server) == 0, 30)
    fields = {"model": "tts-1", "input": "I leave.", "voice": "Alice", "max_new_tokens": 4000,
              "temperature": 0, "repetition_penalty": 0.5, "first_chunk_frames": 4}  # fmt: skip
    with real.http.stream("POST", "/v1/audio/speech", json=fields) as answer:
        next(answer.iter_raw())
    begin = time.monotonic()
    wait_until(lambda: inside(server) == 0, 10)
    assert time.monotonic() - begin < 5  # the figures are published once a second


def test_a_script_is_the_segments_each_as_it_sounds_alone(
    real: Gateway, client: Client, alice: VoiceFeatures
) -> None:
    script = [
        {"speaker_id": "Alice", "text": TEXT, "silence_after_s": 0.25},
        {"speaker_id": "Nobody", "text": "Hello."},
    ]
    body = {"script": script, "voices": {"Alice": "Alice"}, "response_format": "pcm",
            "sample_rate": 44_100, "stream_format": "sse", "captions": "json", **ASKED}  # fmt: skip
    lines = real.http.post("/v1/audio/scripts", json=body).text.split("\n\n")[:-1]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    audio = b"".join(base64.b64decode(event["audio"]) for event in events if "audio" in event)
    [first, second] = json.loads(events[-1]["captions"])
    alone = [expected(client, alice, 44_100), expected(client, None, 44_100, "Hello.")]
    start = round(second["start"] * 44_100)
    assert (round(first["end"] * 44_100), start) == (len(alone[0]), len(alone[0]) + 11_025)
    samples = np.frombuffer(audio, "<i2")
    assert alike(samples[: len(alone[0])].tobytes(), alone[0].tobytes())
    assert alike(samples[start:].tobytes(), alone[1].tobytes())


def test_live_text_is_spoken_and_taken_back(server: Server, real: Gateway) -> None:
    url = f"ws{real.url.removeprefix('http')}/v1/audio/speech/stream"
    with connect(url, proxy=None, open_timeout=20) as socket:
        config = {"type": "session.config", "voice": "Alice", "max_new_tokens": 4000,
                  "temperature": 0, "repetition_penalty": 0.5}  # fmt: skip
        socket.send(json.dumps(config))
        socket.send(json.dumps({"type": "input.text", "text": f"{TEXT} {TEXT} And more."}))
        while not isinstance(socket.recv(timeout=60), bytes):
            pass
        socket.send(json.dumps({"type": "input.cancel"}))
        while isinstance(message := socket.recv(timeout=60), bytes) or "cancelled" not in message:
            pass
        assert json.loads(message)["seconds_sent"] > 0
        wait_until(lambda: inside(server) == 0, 10)


def test_curl(real: Gateway, tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    body = json.dumps({"model": "tts-1", "input": TEXT, "voice": "Alice",
                       "response_format": "flac", **ASKED})  # fmt: skip
    command = ["curl", "-sSf", "--noproxy", "*", "-H", "Content-Type: application/json", "-d", body,
               "-o", str(tmp_path / "a.flac"), f"{real.url}/v1/audio/speech"]  # fmt: skip
    subprocess.run(command, check=True)
    assert (tmp_path / "a.flac").read_bytes()[:4] == b"fLaC"
