"""The probe for those who run tritonserver by itself: exit status, one line, bounded time."""

import http.server
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from support.launched import PROJECT

pytestmark = pytest.mark.slow


class Triton(http.server.BaseHTTPRequestHandler):
    """Answers with a status and a body; `delay_s` passes before each byte."""

    ready, spoken = 200, (200, '{"audio": [0.0]}')
    delay_s = 0.0
    asked: ClassVar[list[dict]] = []

    def do_GET(self) -> None:
        self._answer(self.ready, "")

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._answer(*self.spoken)

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        for byte in body.encode():
            time.sleep(self.delay_s)
            self.wfile.write(bytes([byte]))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[type[Triton], int]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Triton)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with monkeypatch.context():
        yield Triton, server.server_port
    server.shutdown()
    server.server_close()


def probe(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, "-m", "launch.speaks", *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    return done.returncode, done.stdout


def dead() -> str:
    why = "Failed to process the request(s) for model 'fish_tts_0_0', message: Stub process "
    return json.dumps({"error": f"{why}'fish_tts_0_0' is not healthy."})


@pytest.mark.parametrize(
    ("ready", "spoken", "status", "said"),
    [
        (200, (200, '{"audio": [0.0]}'), 0, "speaks"),
        (200, (503, '{"error": "fish_llama: overloaded: its queue is full"}'), 0, "speaks"),
        (400, (200, ""), 1, "not ready: 400"),
        (200, (500, dead()), 1, "is not healthy"),
    ],
    ids=["speaks", "full", "not ready", "a dead process"],
)
def test_what_a_server_says(triton, monkeypatch, ready, spoken, status, said) -> None:
    server, port = triton
    monkeypatch.setattr(server, "ready", ready)
    monkeypatch.setattr(server, "spoken", spoken)
    server.asked.clear()
    code, line = probe("--http-port", port)
    assert code == status and line.startswith(f"127.0.0.1:{port}: ") and said in line
    assert all(asked == {"text": "Hello.", "max_new_tokens": 1} for asked in server.asked)
    assert len(server.asked) == (ready == 200)


def test_an_answer_that_drips_takes_no_longer_than_it_may(triton, monkeypatch) -> None:
    server, port = triton
    monkeypatch.setattr(server, "spoken", (200, "x" * 100))
    monkeypatch.setattr(server, "delay_s", 0.2)
    assert probe("--http-port", port, "--timeout", 1) == (
        1,
        f"127.0.0.1:{port}: no answer after 1 s\n",
    )


def test_nobody_there() -> None:
    code, line = probe("--http-port", 1)
    assert code == 1 and "Connection refused" in line


def test_it_imports_little() -> None:
    """It is started every five seconds."""
    heavy = ("numpy", "torch", "grpc", "typer")
    code = f"import launch.speaks, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(PROJECT), capture_output=True, text=True
    )
    assert done.stdout == "[]\n"
