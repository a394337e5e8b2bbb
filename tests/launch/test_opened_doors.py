"""Before a server is ready, the doors that call it themselves are tried once."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from launch.doors import speak, try_doors
from launch.server import LaunchError

REFUSED = "fish_prompt: invalid request: text is empty, expected words to say."


class Triton(http.server.BaseHTTPRequestHandler):
    """Answers each door with what a test says."""

    answers: ClassVar[dict[str, str]] = {}
    asked: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        model = self.path.split("/")[3]
        self.asked.append(
            (self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        )
        body = json.dumps({"error": self.answers[model]}).encode()
        self.send_response(400)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Triton.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Triton)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def repository(folder: Path, *models: str) -> Path:
    for model in models:
        (folder / model).mkdir()
        (folder / model / "config.pbtxt").touch()
    return folder


def test_doors_that_work(tmp_path: Path, port: int) -> None:
    Triton.answers = dict.fromkeys(("fish_tts", "fish_clone"), REFUSED)
    try_doors(repository(tmp_path, "fish_tts", "fish_clone"), "127.0.0.1", port)
    assert [(path.split("/")[3], body["text"]) for path, body in Triton.asked] == [
        ("fish_tts", ""),
        ("fish_clone", ""),
    ]


@pytest.mark.parametrize("broken", ["fish_tts", "fish_clone"])
def test_a_door_that_does_not_reach_its_server(tmp_path: Path, port: int, broken: str) -> None:
    why = "its own server at 127.0.0.1:9 does not answer: Connection refused"
    Triton.answers = dict.fromkeys(("fish_tts", "fish_clone"), REFUSED) | {broken: why}
    with pytest.raises(LaunchError, match=f"{broken} does not reach its own server: .*{why}"):
        try_doors(repository(tmp_path, "fish_tts", "fish_clone"), "127.0.0.1", port)


def test_a_repository_without_doors_is_not_asked(tmp_path: Path, port: int) -> None:
    try_doors(repository(tmp_path, "doubling"), "127.0.0.1", port)
    assert Triton.asked == []


def test_no_answer(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"no answer: .*refused"):
        try_doors(repository(tmp_path, "fish_tts"), "127.0.0.1", 1)


DEAD = "Failed to process the request(s) for model 'x_0_0', message: Stub process is not healthy."


def test_a_frame_is_spoken(port: int) -> None:
    for answer, alive in (("fish_llama: overloaded: its queue is full", True), (DEAD, False),
                          ("fish_llama: the scheduler has ended", False)):  # fmt: skip
        Triton.answers = {"fish_tts": answer}
        assert (speak("127.0.0.1", port, 5) == "") == alive
    assert "refused" in speak("127.0.0.1", 1, 5)
