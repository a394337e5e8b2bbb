"""A gateway on a port of this machine, in a thread of the test's process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import uvicorn

from gateway.app import create_app
from gateway.connections import Connection
from gateway.settings import read_settings
from support.fake_server import RATE_HZ
from support.launched import wait_until

SPEECH = {"model": "tts-1", "input": "Good morning.", "voice": "alloy"}


class Gateway:
    """A running gateway.

    Attributes:
        url: http://HOST:PORT.
        http: A client of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = httpx2.Client(base_url=url, timeout=30, trust_env=False)

    def speak(self, **fields: Any) -> httpx2.Response:
        return self.http.post("/v1/audio/speech", json={**SPEECH, **fields})

    def error(self, **fields: Any) -> tuple[int, dict[str, Any]]:
        """Status and error of a request for speech that is refused."""
        answer = self.speak(**fields)
        body = answer.json()
        assert set(body) == {"error"} and set(body["error"]) == {"message", "type", "param", "code"}
        return answer.status_code, body["error"]


@contextmanager
def running(servers: str, voices: Path, **settings: Any) -> Iterator[Gateway]:
    """Start a gateway, and end it."""
    found = read_settings(servers=servers, voices=voices, port=0, **settings)
    config = uvicorn.Config(
        create_app(found), found.host, 0, http=Connection, access_log=False, log_config=None,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        gateway = Gateway(f"http://127.0.0.1:{port}")
        with gateway.http:
            yield gateway
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def chunks(*waveforms: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """What `fish_tts_stream` answers: so many chunks."""
    for index, waveform in enumerate(waveforms):
        is_last = index + 1 == len(waveforms)
        yield {
            "audio": waveform[None].astype(np.float32),
            "chunk_index": np.array([[index]], np.int32),
            "num_samples": np.array([[len(waveform)]], np.int32),
            "is_last": np.array([[is_last]]),
            "finish_reason": np.array([[b"stop" if is_last else b""]], np.object_),
            "sample_rate": np.array([[RATE_HZ]], np.int32),
        }


def tone(seconds: float, hz: float = 220.0) -> np.ndarray:
    """float32 (samples,), a tone at 44.1 kHz."""
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ)).astype(
        np.float32
    )
