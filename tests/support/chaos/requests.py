"""What no client would send, to any door of the proxy: HTTP as bytes, gRPC as calls."""

import json
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from ensemble.contract.tensors import MODELS

_pb: Any = service_pb2
_SERVICES = "inference.GRPCInferenceService", "grpc.health.v1.Health"
_MODELS = st.sampled_from([*MODELS, "none", "..%2f..", "a" * 300, "", "fish_tts\0", "Fish_TTS"])
_PATHS = st.sampled_from((
    "/v2/models/{}/infer", "/v2/models/{}/generate", "/v2/models/{}/generate_stream",
    "/v2/models/{}", "/v2/models/{}/ready", "/v2/models/{}/config", "/v2/models/{}/stats",
    "/v2/models/{}/versions/1/infer", "/v2/models/{}/load", "/v2/models/stats", "/v2",
    "/v2/health/ready", "/v2/repository/index", "/v2/repository/models/{}/load", "/v2/logging",
    "/v2/trace/setting", "/v2/systemsharedmemory/region/x/register",
    "/v2/cudasharedmemory/status", "/metrics", "/", "/{}", "//v2/health/live", "/v2/../etc/passwd",
    "http://x/v2/health/live", "*",
))  # fmt: skip
_HEADERS = st.sampled_from((
    "", "", "", "Inference-Header-Content-Length: 7\r\n", "Content-Encoding: gzip\r\n",
    "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: xchunked\r\n", "Content-Length: 3\r\n",
    "Transfer-Encoding : chunked\r\n", "admin-key: x\r\n", "Expect: 100-continue\r\n",
    "Connection: Upgrade, content-length\r\nUpgrade: h2c\r\n", "X: a\r\n b\r\n", "X: \0\r\n",
    "A" * 9000 + ": 1\r\n", "Host: other\r\n", "Range: bytes=0-\r\n", "\r\nGET / HTTP/1.1\r\n",
))  # fmt: skip
_NUMBERS = st.one_of(
    st.sampled_from((0, -1, 2**31, 2**63, 2**64, -(2**63), 1e308, float("nan"), float("inf"))),
    st.integers(), st.floats(),
)  # fmt: skip
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), _NUMBERS, st.text(max_size=20),
              st.integers(0, 20_000).map("x".__mul__)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner,
                                                                max_size=3),
    max_leaves=6,
)  # fmt: skip
_SHAPES = st.one_of(
    st.sampled_from(([1, 1], [1], [-1, -1], [2**40], [0], [0, 0], [1, 2, 3], [], [1] * 9)),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
)
_DTYPES = st.sampled_from(("BYTES", "INT32", "INT64", "FP32", "UINT64", "BOOL", "NONE", ""))
# Speech goes on for seconds, which is not what is tried here.
_SHORT = {"max_new_tokens": 1}


@dataclass(frozen=True)
class Call:
    """A call of gRPC.

    Attributes:
        method: /SERVICE/NAME.
        messages: As bytes; a unary call sends the first.
        is_stream: Whether it is a stream.
        metadata: Of the call.
    """

    method: str
    messages: tuple[bytes, ...]
    is_stream: bool
    metadata: tuple[tuple[str, str], ...]


def _inputs(model: str) -> list[str]:
    return [tensor.name for tensor in MODELS[model].inputs] if model in MODELS else ["text"]


@st.composite
def _body(draw: Any, model: str) -> bytes:
    names = _inputs(model)
    if draw(st.booleans()):
        some = draw(st.lists(st.sampled_from(names), unique=True)) if names else []
        asked: Any = {**{name: draw(_VALUES) for name in some}, **_SHORT}
    else:
        asked = {"id": draw(_VALUES), "parameters": draw(_VALUES), "inputs": [
            {"name": name, "shape": draw(_SHAPES), "datatype": draw(_DTYPES), "data": draw(_VALUES)}
            for name in names[:2]
        ]}  # fmt: skip
        if "max_new_tokens" in names:
            asked["inputs"].append({"name": "max_new_tokens", "shape": [1, 1], "datatype": "INT32",
                                    "data": [1]})  # fmt: skip
    text = json.dumps(asked)
    if draw(st.integers(0, 4)) == 0:
        text = text.replace('"inputs"', '"id":1,"inputs"').replace("{", '{"text":"a",', 1)
    return _spoilt(draw, text.encode())


def _spoilt(draw: Any, sent: bytes) -> bytes:
    """With other bytes in some places, or cut short, or as it is."""
    spoilt = bytearray(sent)
    for at, byte in draw(st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3)):
        if spoilt:
            spoilt[at % len(spoilt)] = byte
    return bytes(spoilt[: draw(st.integers(0, len(spoilt)))] if draw(st.integers(0, 9)) == 0
                 else spoilt)  # fmt: skip


@st.composite
def http(draw: Any) -> bytes:
    """A request, from its first line to the end of its body."""
    model = draw(_MODELS)
    path, body = draw(_PATHS).format(model), draw(_body(model))
    method = draw(st.sampled_from(("POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "X")))
    length = draw(st.sampled_from((len(body),) * 8 + (0, -1, 10**11, "+3", "0x3")))
    headers = "".join(draw(st.lists(_HEADERS, max_size=2)))
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {length}\r\n{headers}\r\n".encode() + body


@st.composite
def grpc(draw: Any) -> Call:
    """A call of any method, with any messages."""
    name = draw(st.sampled_from((
        "ModelInfer", "ModelInfer", "ModelStreamInfer", "ModelStreamInfer", "ServerLive",
        "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig",
        "ModelStatistics", "RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload",
        "SystemSharedMemoryRegister", "CudaSharedMemoryStatus", "TraceSetting", "LogSettings",
        "No",
    )))  # fmt: skip
    service = draw(
        st.sampled_from(("inference.GRPCInferenceService",) * 9 + ("grpc.health.v1.Health",))
    )
    messages = draw(st.lists(_message(), min_size=1, max_size=3))
    metadata = draw(st.lists(st.tuples(
        st.sampled_from(("triton_grpc_error", "triton-grpc-protocol-admin-key", "x-id")),
        st.sampled_from(("true", "", "x" * 4000)),
    ), max_size=2))  # fmt: skip
    is_stream = name == "ModelStreamInfer"
    return Call(f"/{service}/{name}", tuple(messages), is_stream, tuple(metadata))


@st.composite
def _message(draw: Any) -> bytes:
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))
    model = draw(_MODELS)
    request = _pb.ModelInferRequest(model_name=model, id=draw(st.text(max_size=5)))
    request.model_version = draw(st.sampled_from(("", "", "1", "x", "99999999999999999999")))
    for name in _inputs(model)[:3]:
        shape = draw(_SHAPES)
        request.inputs.add(name=name, datatype=draw(_DTYPES),
                           shape=[axis for axis in shape if abs(axis) < 2**62])  # fmt: skip
        if draw(st.booleans()):
            request.raw_input_contents.append(draw(st.binary(max_size=40)))
    if "max_new_tokens" in _inputs(model):
        request.inputs.add(name="max_new_tokens", datatype="INT32", shape=[1, 1])
        request.raw_input_contents.append(b"\1\0\0\0")
    for name in draw(st.lists(st.sampled_from(
        ("timeout", "cancel_token", "priority", "sequence_id", "probe", "")
    ), max_size=2)):  # fmt: skip
        kind = draw(st.sampled_from(("int64_param", "string_param", "bool_param", "double_param")))
        value: Any = {
            "int64_param": st.integers(-(2**63), 2**63 - 1),
            "bool_param": st.booleans(),
            "string_param": st.text(max_size=9),
            "double_param": st.floats(),
        }[kind]
        setattr(request.parameters[name], kind, draw(value))
    return _spoilt(draw, request.SerializeToString())
