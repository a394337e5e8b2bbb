"""A real tritonserver behind the proxy: its callers notice nothing, and it outlives the worst."""

import gzip
import time
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from launch.probe import PROBED
from support.launched import wait_until
from support.proxied import Proxied, proxied
from support.raw import Stream, infer, llama_metrics, stream
from voicereel import Client
from voicereel.errors import InvalidRequest

pytestmark = pytest.mark.server
ASKED = {"text": "Hello there.", "seed": 7, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def door(server) -> Iterator[Proxied]:
    metrics = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    with proxied(server_grpc=server.grpc_url, server_http=server.http_url, server_metrics=metrics,
                 probe_s=0.3, longest_wait_s=0) as found:  # fmt: skip
        yield found


def streamed(of) -> np.ndarray:
    chunks = sorted(stream(of, "fish_tts_stream", **ASKED), key=lambda c: c["chunk_index"][0])
    return np.concatenate([c["audio"][: c["num_samples"][0]] for c in chunks])


def test_speech_is_that_of_the_server(server, door) -> None:
    expected = infer(server, "fish_tts", **ASKED)["audio"]
    assert np.array_equal(infer(door, "fish_tts", **ASKED)["audio"], expected)
    assert np.array_equal(streamed(door), streamed(server))
    with Client(door.grpc_url) as client:
        assert client.ready() and client.checkpoint().family
        spoken = client.synthesize("Hello there.", seed=7, max_new_tokens=24)
        assert np.array_equal(spoken.waveform, expected)
        with pytest.raises(InvalidRequest):
            client.synthesize("Hello there.", temperature=9.0)
    with Client(door.http_url, protocol="http") as client:
        spoken = client.synthesize("Hello there.", seed=7, max_new_tokens=24)
        assert np.array_equal(spoken.waveform, expected)


def test_tritons_own_clients(door) -> None:
    with grpc_client.InferenceServerClient(door.grpc_url) as client:
        assert client.is_server_live() and client.is_server_ready()
        assert client.get_model_config("fish_tts").config.name == "fish_tts"
        assert client.get_model_metadata("fish_llama").name == "fish_llama"
        assert client.get_inference_statistics("fish_tts").model_stats
        assert client.get_server_metadata().name == "triton"
        with pytest.raises(InferenceServerException, match="--open repository"):
            client.get_model_repository_index()
    with http_client.InferenceServerClient(door.http_url) as client:
        assert client.is_server_live() and client.is_model_ready("fish_tts")
        assert client.get_model_config("fish_tts")["name"] == "fish_tts"
        text = http_client.InferInput("text", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[b"Hello there."]], np.object_))
        few = http_client.InferInput("max_new_tokens", [1, 1], "INT32")
        few.set_data_from_numpy(np.array([[3]], np.int32))
        result = client.infer(
            "fish_tts", [text, few], request_compression_algorithm="gzip",
            response_compression_algorithm="deflate",
        )  # fmt: skip
        assert result.as_numpy("audio").size
    asked = {"text": "Hello.", "max_new_tokens": 3, "id": "r1"}
    spoken = door.http.post("/v2/models/fish_tts_stream/generate_stream", json=asked)
    assert spoken.text.startswith("data: {") and '"is_last":true' in spoken.text
    page = door.metrics()
    assert "nv_inference_count" in page and "voicereel_proxy_in_flight" in page
    assert door.proxy.load.slots >= 1


def test_what_would_kill_the_server_is_refused(server, door) -> None:
    for body, headers in (
        (b"[" * 3_000_000, {}),
        (gzip.compress(bytes(400 * 2**20), 1), {"Content-Encoding": "gzip"}),
        (b'{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, -1], "data": ["a"]}]}',
         {}),
    ):  # fmt: skip
        begin = time.monotonic()
        answer = door.http.post("/v2/models/fish_tts/infer", content=body, headers=headers)
        assert answer.status_code in (400, 413) and time.monotonic() - begin < 3
    codes = grpc_client.InferInput("codes", [-2, -2, 1], "INT64")
    codes._raw_content = bytes(32)
    with grpc_client.InferenceServerClient(door.grpc_url) as client:
        for model in ("fish_decoder", "fish_llama", "fish_tts"):
            with pytest.raises(InferenceServerException):
                client.infer(model, [codes])
    assert httpx2.get(f"http://{server.http_url}/v2/health/ready").status_code == 200
    assert infer(door, "fish_tts", text="Hello.", max_new_tokens=3)["audio"].size


def test_every_model_gives_a_sign_of_life(door, server) -> None:
    import asyncio

    import grpc.aio

    from launch.probe import why_silent

    async def ask() -> list[str]:
        async with grpc.aio.insecure_channel(server.grpc_url) as channel:
            return await asyncio.gather(*(why_silent(channel, model, 5) for model in PROBED))

    assert asyncio.run(ask()) == [""] * len(PROBED)
    assert door.http.get("/v2/health/ready").status_code == 200


def test_a_caller_without_a_token_that_leaves_frees_its_slot(door, server) -> None:
    speaking = Stream(door)
    speaking.send("fish_tts_stream", text="Hello there.", temperature=0.0, max_new_tokens=2000)
    result, error = speaking.answers.get(timeout=20)
    assert error is None and result is not None
    speaking.close()
    wait_until(lambda: llama_metrics(server)["fish_llama_active_slots"] == 0, 3)
