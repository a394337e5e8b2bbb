"""A stop of `python -m gateway` while it speaks."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from gateway.settings import Settings, read_settings
from support.fake_server import FakeServer
from support.gateway import SPEECH, chunks, tone

PROJECT = Path(__file__).resolve().parents[2]
PIECES = 3


@contextmanager
def started(server: str, voices: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and its address."""
    settings = {"SERVERS": server, "VOICES": str(voices), "PORT": "0"}
    environment = os.environ | {f"VOICEREEL_GATEWAY_{name}": v for name, v in settings.items()}
    environment["PYTHONPATH"] = f"{PROJECT}:{PROJECT / 'client'}"
    command = [sys.executable, "-m", "voicereel", "gateway"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("ready: http://127.0.0.1:") and line.endswith("/v1\n")
            yield process, line.split()[1].removesuffix("/v1")
        finally:
            process.kill()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.slow
def test_requests_in_flight_end_whole(fake: FakeServer, voices: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()
    pieces = list(chunks(*[tone(0.2)] * PIECES))

    def slowly(_: object) -> Iterator[dict]:
        yield pieces[0]
        begun.set()
        assert go_on.wait(30)
        yield from pieces[1:]

    def speak(url: str) -> int:
        asked = {**SPEECH, "response_format": "pcm", "sample_rate": 44_100}
        return len(httpx2.post(f"{url}/v1/audio/speech", json=asked, timeout=60).content)

    fake.answer = slowly
    with started(fake.url, voices) as (process, url), ThreadPoolExecutor() as pool:
        spoken = pool.submit(speak, url)
        try:
            assert begun.wait(30)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)  # it waits for the stream, and takes no more
            with pytest.raises(httpx2.ConnectError):
                httpx2.get(f"{url}/health/ready")
        finally:
            go_on.set()
        assert spoken.result(30) == PIECES * tone(0.2).size * 2  # bytes
        assert process.wait(30) == -signal.SIGTERM  # by which uvicorn ends


@pytest.mark.slow
def test_a_turn_of_live_text_that_was_begun_is_spoken(fake: FakeServer, voices: Path) -> None:
    fake.answer = lambda _: chunks(*[tone(0.2)] * PIECES)
    with started(fake.url, voices) as (process, url):
        with connect(f"{url.replace('http', 'ws')}/v1/audio/speech/stream") as live:
            live.send(json.dumps({"type": "session.config", "voice": "alloy"}))
            assert json.loads(live.recv())["type"] == "session.configured"
            live.send(json.dumps({"type": "input.text", "text": "Good morning to all of you."}))
            live.ping().wait(30)  # the text has been taken
            process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)  # it waits for the end of the turn
            live.send(json.dumps({"type": "input.done"}))
            said = [json.loads(m) for m in received(live) if isinstance(m, str)]
            assert [m["type"] for m in said] == ["audio.start", "audio.done", "session.done"]
            assert said[1]["seconds"] == pytest.approx(0.2 * PIECES, abs=0.01)
        assert process.wait(30) == -signal.SIGTERM


def received(live: ClientConnection) -> Iterator[str | bytes]:
    """What comes until the connection ends, however it does."""
    with suppress(ConnectionClosed):
        while True:
            yield live.recv()


def test_the_limit_is_the_operators_and_as_long_as_a_request_may_take() -> None:
    fields = Settings.model_fields
    assert fields["drain_s"].default == fields["timeout_s"].default
    assert read_settings(drain_s=7).drain_s == 7
