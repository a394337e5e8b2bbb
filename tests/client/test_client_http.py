"""The client over HTTP, against canned answers."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import voicereel
from voicereel import Caller, Client


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with `reply(path, header) -> (status, JSON, binary)`."""

    reply: Any = None
    asked: Any = None  # the headers of the last request

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(json.loads(body[: int(self.headers["Inference-Header-Content-Length"])]))

    def _answer(self, header: dict) -> None:
        type(self).asked = dict(self.headers)
        status, answer, binary = type(self).reply(self.path, header)
        text = json.dumps(answer).encode() if isinstance(answer, dict) else answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(text) + len(binary)))
        if binary:
            self.send_header("Inference-Header-Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text + binary)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def client() -> Iterator[Client]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, client_address: None  # a test hangs up
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    with Client(f"127.0.0.1:{server.server_port}", "http", timeout_s=5) as client:
        yield client
    server.shutdown()
    server.server_close()


def output(name: str, datatype: str, shape: list[int], size: int) -> dict:
    return {
        "name": name,
        "datatype": datatype,
        "shape": shape,
        "parameters": {"binary_data_size": size},
    }


def test_a_callers_metadata_are_headers(client: Client) -> None:
    Handler.reply = lambda path, header: (200, {}, b"")
    with Caller("id", (("traceparent", "00-1-2-01"),)).active():
        assert client.ready()
    assert Handler.asked["traceparent"] == "00-1-2-01"


def test_synthesize(client: Client) -> None:
    audio = np.linspace(-1, 1, 100, dtype=np.float32)
    headers = []

    def reply(path: str, header: dict) -> tuple[int, dict, bytes]:
        headers.append((path, header))
        outputs = [
            output("finish_reason", "BYTES", [1, 1], 8),
            output("audio", "FP32", [1, 100], 400),
            output("sample_rate", "INT32", [1, 1], 4),
        ]
        reason = b"\x04\0\0\0stop"
        return 200, {"outputs": outputs}, reason + audio.tobytes() + np.int32(44100).tobytes()

    Handler.reply = reply
    spoken = client.synthesize("Grüße", seed=3)
    np.testing.assert_array_equal(spoken.waveform, audio)
    assert (spoken.finish_reason, spoken.sample_rate_hz) == ("stop", 44100)
    path, header = headers[0]
    assert path == "/v2/models/fish_tts/infer"
    assert header["parameters"] == {"timeout": 5_000_000, "binary_data_output": True}
    sizes = {i["name"]: i["parameters"]["binary_data_size"] for i in header["inputs"]}
    assert sizes == {"text": 4 + len("Grüße".encode()), "seed": 8}


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (400, "fish_prompt: text is empty.", voicereel.InvalidRequest),
        (404, "Request for unknown model: 'fish_tts' is not found", voicereel.ServerUnavailable),
        (503, "Exceeds maximum queue size", voicereel.Overloaded),
        (500, "fish_llama: boom", voicereel.ServerError),
    ],
)
def test_errors(client: Client, status: int, message: str, expected: type[Exception]) -> None:
    Handler.reply = lambda path, header: (status, {"error": message}, b"")
    with pytest.raises(voicereel.VoiceReelError) as caught:
        client.synthesize("Hello.")
    assert type(caught.value) is expected
    assert str(caught.value) == message


def test_not_triton(client: Client) -> None:
    Handler.reply = lambda path, header: (502, b"<html>", b"")
    with pytest.raises(voicereel.ServerError, match="is this its HTTP port"):
        client.synthesize("Hello.")


def test_deadline(client: Client) -> None:
    Handler.reply = lambda path, header: time.sleep(1) or (200, {}, b"")
    with pytest.raises(voicereel.DeadlineExceeded, match=r"0\.2 s"):
        client.synthesize("Hello.", timeout_s=0.2)


def test_readiness(client: Client) -> None:
    Handler.reply = lambda path, header: (400 if "fish_clone/" in path else 200, b"", b"")
    assert [name for name, up in client.health().items() if not up] == ["fish_clone"]


def test_streaming_names_the_way_out(client: Client) -> None:
    with pytest.raises(voicereel.InvalidRequest, match="gRPC"):
        client.stream("Hello.")
