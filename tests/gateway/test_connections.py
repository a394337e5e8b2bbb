"""Callers who connect and ask nothing."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import connect

from gateway import connections
from support.gateway import SPEECH, Gateway, chunks, tone

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).resolve().parents[2]
PART = b"GET /health/live HTTP/1.1\r\nHost: "


@contextlib.contextmanager
def opened(url: str, sent: bytes = b"") -> Iterator[socket.socket]:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(sent)
        yield connection


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionResetError:
        return True


def is_answered(connection: socket.socket) -> bool:
    """Whether the rest of `PART` is answered; reads all of the answer."""
    connection.sendall(b"127.0.0.1\r\n\r\n")
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        if not (part := connection.recv(1000)):
            return False
        answer += part
    return answer.startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def impatient(monkeypatch) -> float:
    monkeypatch.setattr(connections, "IDLE_S", 0.4)
    return 0.4


@pytest.mark.parametrize("sent", [b"", PART])
def test_a_connection_that_asks_nothing_is_closed(gateway: Gateway, impatient, sent) -> None:
    with opened(gateway.url, sent) as connection:
        assert ended(connection)


def test_a_header_that_comes_in_drops_renews_nothing(gateway: Gateway, impatient: float) -> None:
    with opened(gateway.url, PART) as connection:
        begin = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begin < 20 * impatient:
                connection.sendall(b"x")
                time.sleep(0.05)
        assert time.monotonic() - begin < 10 * impatient


def test_who_asks_again_in_time_keeps_the_connection(gateway: Gateway, impatient: float) -> None:
    with opened(gateway.url) as connection:
        for _ in range(4):
            time.sleep(impatient / 2)
            connection.sendall(PART)
            assert is_answered(connection)


def test_what_is_spoken_and_what_is_live_is_not_cut(
    gateway: Gateway, fake, impatient: float
) -> None:
    def slowly(_: object) -> Iterator[dict]:
        for chunk in chunks(*[tone(0.2)] * 4):
            time.sleep(impatient)
            yield chunk

    fake.answer = slowly
    asked = SPEECH | {"response_format": "pcm", "sample_rate": 44_100}
    spoken = httpx2.post(f"{gateway.url}/v1/audio/speech", json=asked, timeout=30)
    assert len(spoken.content) == 4 * 8820 * 2
    with connect(f"ws{gateway.url.removeprefix('http')}/v1/audio/speech/stream") as live:
        time.sleep(3 * impatient)
        live.send(json.dumps({"type": "session.config", "voice": "alloy"}))
        assert json.loads(live.recv(5))["type"] == "session.configured"


def test_the_one_that_waited_longest_makes_room(gateway: Gateway, monkeypatch) -> None:
    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(opened(gateway.url, PART)) for _ in range(3)]
        assert httpx2.get(f"{gateway.url}/health/live").status_code == 200
        monkeypatch.setattr(connections.Connection, "most", 0)
        assert httpx2.get(f"{gateway.url}/health/live").status_code == 200
        monkeypatch.undo()
        assert ended(callers[0])
        assert is_answered(callers[2])


@pytest.mark.parametrize(("soft", "hard"), [(64, 1000), (64, 64), (300, None)])
def test_idle_callers_do_not_use_up_the_descriptors(soft: int, hard: int | None) -> None:
    script = (
        "import sys, resource as r; soft, hard = map(int, sys.argv[1:])"
        "; r.setrlimit(r.RLIMIT_NOFILE, (soft, hard or r.getrlimit(r.RLIMIT_NOFILE)[1]))"
        "; from gateway.connections import allow_connections"
        "; print(allow_connections(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(soft), str(hard or 0)], cwd=PROJECT,
                          capture_output=True, text=True)  # fmt: skip
    most, now, limit = map(int, done.stdout.split())
    assert now == (min(limit, 65_536) if limit > 0 else 65_536)
    assert now // 2 <= most < now and (now < 1000 or now - most >= 200)
