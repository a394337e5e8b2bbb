"""A recording without its rate is taken at the checkpoint's, and the answer says so."""

import json

import numpy as np
import pytest

from proxy.inference import WARNING
from support.proxied import infer_json, text_request

SAMPLES = [0.1, -0.1, 0.2]
AUDIO = {"reference_audio": ("FP32", [1, 3], SAMPLES)}
RATE = {"reference_sample_rate": ("INT32", [1, 1], [44_100])}
TEXT = {"text": ("BYTES", [1, 1], ["Hello."]), "reference_text": ("BYTES", [1, 1], ["Hi."])}


def sent(door, model: str, how: str, body: bytes) -> str:
    answer = door.http.post(f"/v2/models/{model}/{how}", content=body)
    assert answer.status_code == 200
    return answer.headers.get(WARNING, "")


def test_over_http(door) -> None:
    assert "state it" in sent(door, "fish_clone", "infer", infer_json(TEXT | AUDIO))
    assert "state it" in sent(door, "fish_encode", "infer", infer_json(AUDIO))
    assert sent(door, "fish_clone", "infer", infer_json(TEXT | AUDIO | RATE)) == ""
    assert sent(door, "fish_tts", "infer", infer_json({"text": TEXT["text"]})) == ""
    flat = {"text": "Hello.", "reference_text": "Hi.", "reference_audio": SAMPLES}
    assert "state it" in sent(door, "fish_clone", "generate", json.dumps(flat).encode())
    rated = flat | {"reference_sample_rate": 44_100}
    assert sent(door, "fish_clone", "generate", json.dumps(rated).encode()) == ""


@pytest.mark.parametrize("stated", [False, True])
def test_over_grpc(stub, upstream, stated: bool) -> None:
    asked = text_request("fish_clone_stream")
    asked.inputs.add(name="reference_text", datatype="BYTES", shape=[1, 1])
    asked.raw_input_contents.append(b"\3\0\0\0Hi.")
    asked.inputs.add(name="reference_audio", datatype="FP32", shape=[1, 3])
    asked.raw_input_contents.append(np.array(SAMPLES, np.float32).tobytes())
    if stated:
        asked.inputs.add(name="reference_sample_rate", datatype="INT32", shape=[1, 1])
        asked.raw_input_contents.append(np.array([44_100], np.int32).tobytes())
    stream = stub.ModelStreamInfer(iter([asked]))
    list(stream)
    asked.model_name = "fish_clone"
    _, unary = stub.ModelInfer.with_call(asked)
    for call in (stream, unary):
        told = dict(call.trailing_metadata()).get(WARNING, "")
        assert ("state it" in told) is not stated
