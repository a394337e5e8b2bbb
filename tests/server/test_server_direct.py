"""Inner models called directly, on the real server: refused in a second, with the right code."""

import time

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from ensemble.contract.codec_limits import WIDEST_CHUNK
from support.raw import Stream, infer, stream, tensors

pytestmark = pytest.mark.server


def window(rows: int, books: int, frames: int, begin: int = 0, value: int = 1) -> dict:
    numbers = np.tile(begin + np.arange(frames), (rows, 1))
    return {"codes": np.full((rows, books, frames), value), "new_frames": numbers}


def sound(rows: int, frames: int, value: float = 0.1, chunk: int = 64) -> dict:
    waveform = np.broadcast_to(value, (rows, frames * 2048))  # which takes one number's memory
    return {"waveform": waveform, "chunk_frames": [[chunk]] * rows}


DIRECT = [
    ("fish_decoder", window(1, 11, 8), r"codes has shape \[1, 11, 8\], expected \[rows, 10,"),
    ("fish_decoder", window(1, 32, 8), "expected .rows, 10, frames"),
    ("fish_decoder", window(1, 10, 8, value=-1), "codes holds an entry that"),
    ("fish_decoder", window(1, 10, 8, value=64), "codes holds an entry that"),
    ("fish_decoder", window(1, 10, 8, begin=2**62), "new_frames ends with"),
    ("fish_decoder", window(16, 10, 200), "16 rows of 200 frames, expected 552 frames in one"),
    ("fish_decoder", window(1, 10, WIDEST_CHUNK + 100), "1 rows of 612 frames, expected 552"),
    ("fish_decoder", window(1, 10, 0), "at least one new frame"),
    ("fish_encoder", sound(8, 300), "is 2400 frames, expected 1 to 2048 in one request"),
    ("fish_encoder", sound(1, 8, np.nan), "waveform holds NaN"),
    ("fish_encoder", sound(1, 8, chunk=-1), "chunk_frames is"),
    ("fish_encoder", sound(1, 0), "is 0 frames"),
]


def batches(values: dict) -> list[grpc.InferInput]:
    """Inputs that have their batch axis already."""
    kinds = {"codes": "INT64", "new_frames": "INT64", "chunk_frames": "INT64", "waveform": "FP32"}
    made = []
    for name, value in values.items():
        array = np.asarray(value, np.float32 if kinds[name] == "FP32" else np.int64)
        made.append(grpc.InferInput(name, list(array.shape), kinds[name]))
        made[-1].set_data_from_numpy(array)
    return made


@pytest.mark.parametrize(("model", "values", "message"), DIRECT, ids=[m[2][:30] for m in DIRECT])
def test_the_codec_refuses_what_no_ensemble_sends(server, model, values, message) -> None:
    begin = time.monotonic()
    with (
        grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(
            InferenceServerException, match=f"{model}: invalid request: .*{message}"
        ) as e,
    ):
        client.infer(model, batches(values), client_timeout=10)
    assert e.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("model", ["fish_tts", "fish_tts_stream"])
@pytest.mark.parametrize("timeout", [-1, 2**62])
def test_a_timeout_that_is_none(server, model, timeout) -> None:
    said = f"invalid request: timeout is {timeout}, expected whole microseconds from 0"
    with (
        grpc.InferenceServerClient(server.grpc_url) as client,
        pytest.raises(InferenceServerException, match=said) as raised,
    ):
        if model == "fish_tts":
            client.infer(model, tensors(text="Hello."), timeout=timeout)
        connection = Stream(server)
        try:
            connection.client.async_stream_infer(model, tensors(text="Hello."), timeout=timeout)
            connection.collect()
        finally:
            connection.close()
    if model == "fish_tts":
        assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_refusal_is_logged_with_the_callers_id_at_the_step_that_refused(server) -> None:
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for text, request_id in (("...", "door-7"), ("Hello.", "happy-8")):
            try:
                inputs = tensors(text=text, max_new_tokens=2)
                client.infer("fish_tts", inputs, request_id=request_id)
            except InferenceServerException:
                continue
    log = server.log_path.read_text()
    assert "fish_prompt: request 'door-7': invalid request: text is '...', which has no" in log
    assert "happy-8" not in log


def test_all_of_it_is_still_served(server) -> None:
    """What ensembles send is not refused, and the warm-up of the decoder has passed."""
    assert infer(server, "fish_tts", text="Hello.", max_new_tokens=3)["audio"].size > 0
    windows = stream(server, "fish_tts_stream", text="Hello.", max_new_tokens=3)
    assert sum(int(w["num_samples"][0]) for w in windows) > 0
