"""A proxy in this process, in front of a server that is a fake or a real one."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import pytest
from tritonclient.grpc import service_pb2

from proxy.serve import Running, serve_until
from proxy.settings import Settings


class Proxied:
    """A running proxy.

    Attributes:
        proxy: What its requests share.
        grpc_url, http_url: As tritonclient takes them.
        metrics_url: Of the page.
        http: A client of the HTTP port.
    """

    def __init__(
        self, running: Running, loop: asyncio.AbstractEventLoop, stop: asyncio.Event
    ) -> None:
        self.proxy, self.loop, ports = running.proxy, loop, running.ports
        self.running, self.stop = running, stop
        self.grpc_url, self.http_url = (f"127.0.0.1:{ports[use]}" for use in ("grpc", "http"))
        self.metrics_url = f"http://127.0.0.1:{ports['metrics']}/metrics"
        self.http = httpx2.Client(base_url=f"http://{self.http_url}", timeout=20, trust_env=False)

    def metrics(self) -> str:
        return httpx2.get(self.metrics_url, timeout=10, trust_env=False).text

    def call(self, work: Callable[[], Any]) -> Any:
        """Run in the proxy's event loop."""

        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged, without gRPC's own noise: its event loops in one process wake each other."""
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if "PollerCompletionQueue" not in message]


@contextmanager
def proxied(**settings: Any) -> Iterator[Proxied]:
    """A proxy with these settings, in a thread."""
    opened: list[Any] = []
    is_open, loop = threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    def on_open(running: Running) -> None:
        opened.append(running)
        is_open.set()

    work = serve_until(Settings(**settings), stop, on_open)
    thread = threading.Thread(target=lambda: loop.run_until_complete(work))
    thread.start()
    assert is_open.wait(20)
    found = Proxied(opened[0], loop, stop)
    try:
        with found.http:
            yield found
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)
        loop.close()
    assert not thread.is_alive()


class FakeHttp:
    """An HTTP server in this process that remembers what came.

    Attributes:
        requests: Path, headers and body.
        answer: To be set by the test: from path and body to the pieces of an answer.
        metrics: The page at /metrics.
        status: Of the answers.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer: Callable[[str, bytes], Any] = lambda path, body: [b'{"model_name": "x"}']
        self.metrics = "fish_llama_slots 4\n"
        self.status = 200
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/metrics":
                    pieces = [fake.metrics.encode()]
                else:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    fake.requests.append((self.path, headers, body))
                    pieces = fake.answer(self.path, body)
                self.send_response(200 if self.path == "/metrics" else fake.status)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for piece in [*pieces, b""] if isinstance(pieces, list) else pieces:
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                        self.wfile.flush()
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FakeHttp":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def infer_json(inputs: dict[str, tuple[str, list[int], Any]], **more: Any) -> bytes:
    """The body of an infer request: name -> datatype, shape, data."""
    listed = [
        {"name": name, "datatype": dtype, "shape": shape, "data": data}
        for name, (dtype, shape, data) in inputs.items()
    ]
    return json.dumps({"inputs": listed, **more}).encode()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds it took."""
    begin = time.monotonic()
    return work(), time.monotonic() - begin


def text_request(model: str = "fish_tts", **more: Any) -> Any:
    """A gRPC message that asks for speech of a text, with a token to be taken back by."""
    asked = service_pb2.ModelInferRequest(model_name=model, id="r1", **more)
    asked.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    asked.raw_input_contents.append(b"\5\0\0\0whole")
    asked.parameters["cancel_token"].string_param = "ab" * 16
    return asked
