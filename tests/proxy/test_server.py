"""The server behind the proxy: ready or not, gone, hung, back again, with a dead model."""

import re
import threading
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from launch.probe import PROBED, request_of
from proxy import grpc_side, grpc_stream, http_side
from support.fake_server import FakeServer, Refusal, inputs_of
from support.launched import wait_until
from support.proxied import proxied
from voicereel import Client
from voicereel.errors import ServerUnavailable

pb = service_pb2
DIED = (
    "Failed to process the request(s) for model instance 'fish_decoder_0_0', message: "
    "Stub process 'fish_decoder_0_0' is not healthy."
)
SILENT = pb.ModelInferRequest(model_name="fish_tts_stream")
SILENT.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
SILENT.raw_input_contents.append(b"\1\0\0\0a")


def silent(inputs):
    time.sleep(3)
    yield {}


@pytest.fixture
def fake():
    with FakeServer() as server:
        yield server


def before(fake, http, **settings):
    return proxied(server_grpc=fake.url, server_http=http.url, server_metrics=http.url,
                   **{"probe_s": 0, **settings})  # fmt: skip


def ready(door) -> tuple[int, bool]:
    with grpc.insecure_channel(door.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        over_grpc = stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready
    return door.http.get("/v2/health/ready").status_code, over_grpc


def test_ready_is_what_the_server_is(upstream_http) -> None:
    fake = FakeServer().__enter__()
    port = int(fake.url.rpartition(":")[2])
    with before(fake, upstream_http) as door, Client(door.grpc_url, return_s=5) as client:
        assert ready(door) == (200, True)
        fake.facts = {"family": "x"}
        fake.__exit__()
        begin = time.monotonic()
        assert ready(door) == (503, False)
        assert time.monotonic() - begin < 5
        with pytest.raises(ServerUnavailable, match="failed to connect"):
            next(Client(door.grpc_url, return_s=0).stream("Good morning."))
        answer = door.http.get("/v2/health/ready")
        assert answer.json()["error"] == (
            "proxy: not ready: the server cannot be reached: failed to connect to all addresses"
        )
        with FakeServer(port) as again:
            wait_until(lambda: ready(door) == (200, True), 2)
            again.answer = lambda inputs: iter([{"audio": np.zeros((1, 3), np.float32)}])
            assert client.ready()


class Gated(FakeServer):
    """Says that it is ready as soon as its gate is open."""

    def ServerReady(self, request, context):
        self.gate.wait(10)
        return pb.ServerReadyResponse(ready=True)


@pytest.fixture
def gated():
    Gated.gate = threading.Event()
    with Gated() as server:
        yield server
        server.gate.set()


def test_a_server_that_hangs_is_not_ready(gated, upstream_http) -> None:
    with before(gated, upstream_http) as door:
        begin = time.monotonic()
        answer = door.http.get("/v2/health/ready")
        assert answer.status_code == 503 and time.monotonic() - begin < 5
        assert answer.json() == {"error": "proxy: not ready: the server has not answered for 1.5 s"}


def test_callers_in_flight_are_told_that_the_server_has_gone(upstream_http) -> None:
    fake = FakeServer().__enter__()
    fake.answer = silent
    with before(fake, upstream_http) as door, grpc.insecure_channel(door.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        streamed = stub.ModelStreamInfer(iter([SILENT]))
        unary = stub.ModelInfer.future(SILENT)
        wait_until(lambda: len(fake.requests) == 2)
        fake.__exit__()
        for call in (lambda: next(streamed), unary.result):
            with pytest.raises(grpc.RpcError) as error:
                call()
            assert error.value.code().name == "UNAVAILABLE"
            assert error.value.details().startswith("proxy: connection reset, the server has")
        wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_server_that_hangs_loses_its_callers(gated, upstream_http, monkeypatch) -> None:
    monkeypatch.setattr("proxy.server._HUNG_S", 0.7)
    fake = gated
    fake.answer = silent
    fake.gate.set()

    def late(path, body):
        time.sleep(3)
        return []

    upstream_http.answer = late
    with before(fake, upstream_http) as door, grpc.insecure_channel(door.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        streamed = stub.ModelStreamInfer(iter([SILENT]))
        over_http = []
        thread = threading.Thread(
            target=lambda: over_http.append(
                door.http.post("/v2/models/fish_tts/generate", json={"text": "a"})
            )
        )
        thread.start()
        wait_until(lambda: len(fake.requests) == 1 and upstream_http.requests)
        fake.gate.clear()
        with pytest.raises(grpc.RpcError) as error:
            next(streamed)
        thread.join(5)
        fake.gate.set()
        assert error.value.code().name == "UNAVAILABLE"
        assert "has not answered for 0.7 s" in error.value.details()
        assert over_http[0].status_code == 503 and over_http[0].headers["Retry-After"] == "1"


def test_a_dead_model_is_noticed_and_everybody_told(fake, upstream_http) -> None:
    dead = threading.Event()

    def answer(inputs):
        if "new_frames" in inputs and dead.is_set():
            raise Refusal(grpc.StatusCode.INTERNAL, DIED)
        if "text" in inputs and inputs["text"].item():
            time.sleep(5)
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "fish_x: invalid request: probe")
        yield

    fake.answer = answer
    with (
        before(fake, upstream_http, probe_s=0.2) as door,
        grpc.insecure_channel(door.grpc_url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        streamed = stub.ModelStreamInfer(iter([SILENT]))
        wait_until(lambda: {r.model_name for r in fake.requests} >= {*PROBED, "fish_tts_stream"})
        assert ready(door) == (200, True)
        dead.set()
        with pytest.raises(grpc.RpcError) as error:
            next(streamed)
        assert "the process of fish_decoder has died" in error.value.details()
        assert ready(door) == (503, False)
        assert not stub.ModelReady(pb.ModelReadyRequest(name="fish_decoder")).ready
        assert stub.ModelReady(pb.ModelReadyRequest(name="fish_tts")).ready
        assert door.http.get("/v2/models/fish_decoder/ready").status_code == 503
        unary = lambda: stub.ModelInfer(SILENT)  # noqa: E731
        for call in (unary, lambda: list(stub.ModelStreamInfer(iter([SILENT])))):
            with pytest.raises(grpc.RpcError) as error:
                call()
            assert error.value.code().name == "UNAVAILABLE"
            assert dict(error.value.trailing_metadata())["retry-after-ms"] == "1000"


@pytest.mark.parametrize("model", PROBED)
def test_what_a_model_is_asked_is_a_request_of_the_contract(model) -> None:
    request = pb.ModelInferRequest.FromString(request_of(model))
    assert request.parameters["probe"].bool_param
    assert all(array.size == 1 for array in inputs_of(request).values())


def test_a_stop_lets_what_is_in_flight_end(fake, upstream_http) -> None:
    go = threading.Event()

    def answer(inputs):
        go.wait(10)
        yield {"audio": np.zeros((1, 3), np.float32)}

    fake.answer = answer
    with before(fake, upstream_http) as door, grpc.insecure_channel(door.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        call = stub.ModelInfer.future(SILENT)
        wait_until(lambda: fake.requests)
        door.loop.call_soon_threadsafe(door.stop.set)
        wait_until(lambda: door.proxy.server.closing)
        assert ready(door) == (503, False)
        assert not stub.ModelReady(service_pb2.ModelReadyRequest(name="fish_tts")).ready
        with pytest.raises(grpc.RpcError, match="the proxy is shutting down"):
            stub.ModelInfer(SILENT)
        go.set()
        assert call.result(5).outputs


@pytest.mark.parametrize("side", [grpc_side, grpc_stream, http_side], ids=lambda m: m.__name__)
def test_a_request_that_is_read_when_a_stop_begins_is_refused(
    fake, upstream_http, monkeypatch, side
) -> None:
    """It was not in flight yet, so nothing would wait for it."""
    fake.answer = lambda _: iter([{"audio": np.zeros((1, 3), np.float32)}])
    look = side.elsewhere

    async def looked_at_late(*arguments):
        door.proxy.server.closing = True
        return await look(*arguments)

    monkeypatch.setattr(side, "elsewhere", looked_at_late)
    with before(fake, upstream_http) as door, grpc.insecure_channel(door.grpc_url) as channel:
        if side is http_side:
            asked = {
                "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}]
            }
            said = door.http.post("/v2/models/fish_tts/infer", json=asked).text
        else:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            with pytest.raises(grpc.RpcError) as error:
                unary = side is grpc_side
                stub.ModelInfer(SILENT) if unary else list(stub.ModelStreamInfer(iter([SILENT])))
            said = error.value.details()
        assert "the proxy is shutting down" in said
    assert not fake.requests


def test_what_says_that_a_process_died() -> None:
    from launch.probe import DEAD

    assert DEAD.search(DIED) and not re.search(DEAD, "fish_decoder: ValueError: codes has 1 rows")
