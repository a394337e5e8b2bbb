"""A stop of `python -m gateway` while it speaks."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from gateway.__main__ import Gateway as Process
from gateway.settings import Settings, read_settings
from support.fake_server import FakeServer
from support.gateway import SPEECH, chunks, tone

PIECES = 3


@contextmanager
def started(server: str, voices: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process, and its address."""
    settings = {"SERVERS": server, "VOICES": str(voices), "PORT": "0"}
    environment = os.environ | {f"VOICEREEL_GATEWAY_{name}": v for name, v in settings.items()}
    command = [sys.executable, "-m", "gateway"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            yield process, process.stdout.readline().split()[1].removesuffix("/v1")
        finally:
            process.kill()


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


def test_the_limit_is_the_operators_and_as_long_as_a_request_may_take() -> None:
    fields = Settings.model_fields
    assert fields["drain_s"].default == fields["timeout_s"].default
    assert Process(read_settings(drain_s=7)).config.timeout_graceful_shutdown == 7
