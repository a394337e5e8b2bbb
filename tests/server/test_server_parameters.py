"""Request parameters at every door: what nobody reads is refused by name, before any work."""

import json
import queue
import urllib.error
import urllib.request

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from support.raw import infer, outcomes, tensors

pytestmark = pytest.mark.server
RECORDING = {"reference_audio": (np.sin(np.arange(44100) / 20) * 0.3).astype(np.float32).tolist()}
DOORS = {
    "fish_tts": {"text": "Hi.", "max_new_tokens": 2},
    "fish_tts_stream": {"text": "Hi.", "max_new_tokens": 2},
    "fish_clone": {"text": "Hi.", "reference_text": "a", "max_new_tokens": 2, **RECORDING},
    "fish_clone_stream": {"text": "Hi.", "reference_text": "a", "max_new_tokens": 2, **RECORDING},
    "fish_encode": RECORDING,
    "fish_cancel": {"cancel_token": "ab" * 16},
}
SLIPS = {"fish_encode": ("chunk_size", "chunk_size_s"), "fish_cancel": ("token", "cancel_token")}


def generate(server, model: str, **body: object) -> str:
    """The answer of Triton's generate endpoint, an error's too."""
    end = "generate_stream" if model.endswith("_stream") else "generate"
    url = f"http://{server.http_url}/v2/models/{model}/{end}"
    request = urllib.request.Request(url, json.dumps(body).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


@pytest.mark.parametrize("model", DOORS)
def test_by_generate(server, model: str) -> None:
    slip, meant = SLIPS.get(model, ("max_tokens", "max_new_tokens"))
    before = outcomes(server)
    said = generate(server, model, **DOORS[model], **{slip: 5})
    assert f"invalid request: there is no parameter '{slip}'. Did you mean {meant}?" in said
    assert outcomes(server) == before  # nothing was generated
    tritons = {"id": "7", "timeout": 60_000_000, "priority": 0, "sequence_id": 3}
    assert '"error"' not in generate(server, model, **DOORS[model], **tritons)


@pytest.mark.parametrize("model", ["fish_tts", "fish_tts_stream"])
def test_by_grpc(server, model: str) -> None:
    inputs, answers = tensors(text="Hi.", max_new_tokens=2), queue.Queue()
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for parameters in ({"temprature": 1}, {"temperature": 1}, {}):
            tritons = {"timeout": 60_000_000, "priority": 0, "sequence_id": 0}
            if model == "fish_tts":
                try:
                    client.infer(model, inputs, parameters=parameters, **tritons)
                    answers.put((None, None))
                except InferenceServerException as error:
                    answers.put((None, error))
            else:
                client.start_stream(lambda result, error: answers.put((result, error)))
                client.async_stream_infer(model, inputs, parameters=parameters, **tritons)
                client.stop_stream()
        errors = [str(answers.get(timeout=60)[1]) for _ in range(3)]
    assert "no parameter 'temprature'. Did you mean temperature?" in errors[0]
    assert "temperature came as a parameter, expected it as an input tensor" in errors[1]
    assert errors[2] == "None"


def test_a_timeout_by_generate_is_kept(server) -> None:
    long = {"text": "A long story. " * 20, "temperature": 2.0, "max_new_tokens": 2000}
    said = generate(server, "fish_tts", **long, timeout=1)
    assert "cancelled: its timeout" in said or "Request timeout expired" in said  # when queued
    assert "expected whole microseconds" in generate(server, "fish_tts", **long, timeout="soon")
    assert infer(server, "fish_tts", text="Hi.", max_new_tokens=2)["audio"].size > 0
