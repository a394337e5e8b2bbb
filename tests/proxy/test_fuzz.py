"""Whatever a caller sends is answered in words within a second, or is what Triton can take.

500 examples of five kinds together; VOICEREEL_FUZZ=10000 tries more.
"""

import gzip
import json
import os
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from ensemble.contract.tensors import MODELS
from proxy.doors import Doors
from proxy.inference import Proxy, look_at_body, look_at_message
from proxy.refusals import Refusal
from proxy.settings import Settings
from proxy.tensors import SIZES

pb = service_pb2
EXAMPLES = int(os.environ.get("VOICEREEL_FUZZ", "500")) // 5  # of each kind
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=EXAMPLES <= 100,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
PROXY: Proxy = Proxy(Settings(max_body_mib=1), Doors(frozenset(["inner"])), *[None] * 3)  # type: ignore
AXES = st.one_of(st.integers(-3, 3), st.sampled_from([-(2**63), 2**62, 2**31, 2**32, -(2**31)]))
MODEL = st.sampled_from([*MODELS, "another", "", "fish_tts\n"])
NAMES = sorted({t.name for s in MODELS.values() for t in s.inputs} | {"x", "", "\u0000"})
DTYPES = st.sampled_from([*SIZES, "BYTES", "STRING", "", "fp32"])
TENSOR = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "datatype": DTYPES,
        "shape": st.lists(AXES, max_size=10),
        "raw": st.one_of(st.binary(max_size=40), st.integers(0, 40).map(bytes)),
    }
)
CODES = {"INVALID_ARGUMENT", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED"}


def let_through(look, *arguments) -> bool:
    """Whether a request goes on; it is refused in words, or quickly let through."""
    begin = time.process_time()
    try:
        look(*arguments)
        return True
    except Refusal as refusal:
        assert refusal.code.name in CODES and len(refusal.message) < 1000
        return False
    finally:
        assert time.process_time() - begin < 1


def is_sound(model: str, tensors: list[dict]) -> bool:
    """What must be so of whatever goes on."""
    for each in tensors:
        product = 1
        for axis in each["shape"]:
            if axis < 0:
                return False
            product *= axis
        if each["datatype"] == "BYTES":
            continue
        if len(each["raw"]) != product * SIZES[each["datatype"]]:
            return False
    known = MODELS.get(model)
    return known is None or {t["name"] for t in tensors} <= {t.name for t in known.inputs}


@FUZZ
@given(MODEL, st.lists(TENSOR, max_size=4))
def test_tensors_over_grpc(model, tensors) -> None:
    request = pb.ModelInferRequest(model_name=model)
    for each in tensors:
        shape = each["shape"]
        request.inputs.add(name=each["name"], datatype=each["datatype"], shape=shape)
        request.raw_input_contents.append(each["raw"])
    if let_through(look_at_message, PROXY, request.SerializeToString(), {}):
        assert is_sound(model, tensors)


@FUZZ
@given(MODEL, st.lists(TENSOR, max_size=4))
def test_tensors_over_http(model, tensors) -> None:
    listed = [
        {
            "name": each["name"], "datatype": each["datatype"], "shape": each["shape"],
            "parameters": {"binary_data_size": len(each["raw"])},
        }
        for each in tensors
    ]  # fmt: skip
    text = json.dumps({"inputs": listed}).encode()
    headers = {"inference-header-content-length": str(len(text))}
    body = text + b"".join(each["raw"] for each in tensors)
    if let_through(look_at_body, PROXY, model, "infer", body, headers):
        assert is_sound(model, tensors)


@FUZZ
@given(st.binary(max_size=300))
def test_bytes_over_grpc(message) -> None:
    if let_through(look_at_message, PROXY, message, {}):
        pb.ModelInferRequest.FromString(message)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda more: st.one_of(
        st.lists(more, max_size=4),
        st.dictionaries(
            st.sampled_from(["inputs", "outputs", "parameters", "shape", "data", "name", "text",
                             "datatype", "timeout", "cancel_token", "id", "binary_data_size"]),
            more, max_size=5,
        ),
    ),
    max_leaves=20,
)  # fmt: skip


@FUZZ
@given(MODEL, JSON, st.sampled_from(["infer", "generate", "generate_stream"]), st.booleans())
def test_json_over_http(model, value, how, packed) -> None:
    body = json.dumps(value).encode()
    headers = {"content-encoding": "gzip"} if packed else {}
    body = gzip.compress(body) if packed else body
    if let_through(look_at_body, PROXY, model, how, body, headers):
        assert isinstance(value, dict)
        json.loads(look_at_body(PROXY, model, how, body, headers).content)


@FUZZ
@given(st.binary(max_size=200), st.sampled_from(["", "gzip", "deflate", "br"]), st.text(max_size=8))
def test_bytes_over_http(body, how, length) -> None:
    headers = {"content-encoding": how, "inference-header-content-length": length}
    let_through(look_at_body, PROXY, "fish_tts", "infer", body, headers)
    let_through(look_at_body, PROXY, "fish_tts", "generate", body, {})


@pytest.mark.parametrize("seed", range(3))
def test_good_requests_that_were_spoilt(seed) -> None:
    """One byte in a good request is another: it is refused, or is a message all the same."""
    request = pb.ModelInferRequest(model_name="fish_llama", id="r")
    request.inputs.add(name="prompt", datatype="INT32", shape=[1, 2, 3])
    request.raw_input_contents.append(bytes(24))
    good, chance = request.SerializeToString(), random.Random(seed)
    assert let_through(look_at_message, PROXY, good, {})
    for _ in range(EXAMPLES):
        spoilt = bytearray(good)
        spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        if let_through(look_at_message, PROXY, bytes(spoilt), {}):
            found = pb.ModelInferRequest.FromString(bytes(spoilt))
            assert all(axis >= 0 for each in found.inputs for axis in each.shape)
