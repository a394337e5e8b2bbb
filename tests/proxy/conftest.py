"""A proxy in front of a fake server, for each test module."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from support.fake_server import FakeServer, chunk, whole
from support.proxied import FakeHttp, Proxied, proxied


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(scope="module")
def upstream_http() -> Iterator[FakeHttp]:
    with FakeHttp() as server:
        yield server


@pytest.fixture(scope="module")
def door(upstream: FakeServer, upstream_http: FakeHttp) -> Iterator[Proxied]:
    with proxied(
        server_grpc=upstream.url, server_http=upstream_http.url, server_metrics=upstream_http.url,
        probe_s=0, longest_wait_s=0, max_body_mib=4,
    ) as found:  # fmt: skip
        yield found


@pytest.fixture
def stub(door: Proxied) -> Iterator[Any]:
    """gRPC through the proxy."""
    with grpc.insecure_channel(door.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(autouse=True)
def answers(upstream: FakeServer, upstream_http: FakeHttp) -> None:
    """Speech, whole and in two chunks; over HTTP, an answer without outputs in two pieces."""
    upstream_http.requests.clear()
    upstream_http.answer = lambda path, body: [b'{"model_name": "x", ', b'"outputs": []}']
    upstream.requests.clear()
    upstream.cancelled.clear()
    upstream.taken_back.clear()

    def answer(inputs: dict[str, np.ndarray]):
        if inputs.get("text", np.array([b""])).item() == b"whole":
            yield whole(np.ones(10))
        else:
            yield chunk(0)
            yield chunk(1, is_last=True)

    upstream.answer = answer
