"""Every model and both kinds of front door, on the real server."""

import concurrent.futures
import contextlib
import json
import queue
import time
import urllib.request
import uuid
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from ensemble.contract.facts import Facts
from ensemble.contract.tensors import MODELS
from launch import processes
from support.raw import Stream, infer, joined, llama_metrics, metrics, outcomes, stream, tensors

pytestmark = pytest.mark.server
TEXTS = ["Hello there.", "A second sentence, a little longer than that.", "And three!"]
AS_UNARY = {"first_chunk_frames": 64}  # the schedule of the unary doors: rounding and all the same


@pytest.fixture(scope="module")
def facts(repository) -> Facts:
    return Facts.load(repository / "fish_llama" / "1")


def recording(seconds: float, pitch: float = 110.0) -> np.ndarray:
    time = np.arange(int(seconds * 44100)) / 44100
    tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 9))
    return (0.2 * tone * np.sin(7 * time) ** 2).astype(np.float32)


def test_metadata_is_the_contract(server) -> None:
    for name, model in MODELS.items():
        url = f"http://{server.http_url.removeprefix('http://')}/v2/models/{name}"
        with urllib.request.urlopen(url) as answer:
            served = json.load(answer)
        for key, declared in (("inputs", model.inputs), ("outputs", model.outputs)):
            expected = [(t.name, t.dtype, [-1, *t.dims]) for t in declared]
            assert [(t["name"], t["datatype"], t["shape"]) for t in served[key]] == expected


def test_only_what_computes_with_torch_loads_it(server) -> None:
    """It takes seconds of each start, and hundreds of megabytes; here the codec is ONNX."""
    loaded = {
        name.rpartition("_")[0].rpartition("_")[0]
        for pid, name in processes.stubs(server.pid).items()
        if "/libtorch" in Path(f"/proc/{pid}/maps").read_text()
    }
    assert loaded == {"fish_llama"}


def test_every_model_ends_with_its_server(server) -> None:
    """One that holds a lock of the server's when that is killed would be left for ever."""
    watching = {
        name
        for pid, name in processes.stubs(server.pid).items()
        for path in Path(f"/proc/{pid}/fdinfo").iterdir()
        if f"Pid:\t{server.pid}\n" in path.read_text()
    }
    assert watching == set(processes.stubs(server.pid).values())


def test_encode_pads_and_says_how_many_frames_count(server, facts) -> None:
    audio = recording(1.0)
    out = infer(server, "fish_encode", reference_audio=audio, reference_sample_rate=44100)
    assert out["reference_frames"][0] == 22
    assert out["checkpoint_id"][0].decode() == facts.checkpoint_id
    assert out["codes"].shape == (facts.num_codebooks, 32)
    direct = infer(server, "fish_encoder", waveform=audio, chunk_frames=22)["codes"]
    np.testing.assert_array_equal(out["codes"][:, :22], direct)


def test_codes_do_not_depend_on_the_chunk_size(server, facts) -> None:
    """12 s; the attention of the encoder looks back over 6 s in each of its layers."""
    audio = recording(12.0) + np.random.default_rng(0).normal(0, 0.01, 12 * 44100)
    reference = {"reference_audio": audio.astype(np.float32)}
    whole = infer(server, "fish_encode", **reference, chunk_size_s=np.inf)["codes"]
    assert whole.shape == (facts.num_codebooks, 288)
    for size in (0.01, 0.5, 3.0, 10.0, 500.0):
        codes = infer(server, "fish_encode", **reference, chunk_size_s=size)["codes"]
        np.testing.assert_array_equal(codes, whole, err_msg=f"{size} s")
    np.testing.assert_array_equal(infer(server, "fish_encode", **reference)["codes"], whole)


def test_recordings_encoded_together_keep_their_codes(server) -> None:
    """Rows of one batch share the smallest chunk."""

    def encode(i: int, size: float) -> np.ndarray:
        audio = recording(1.4, pitch=90 + 7 * i)
        return infer(server, "fish_encode", reference_audio=audio, chunk_size_s=size)["codes"]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(encode, range(8), np.linspace(0.2, 2, 8)))
    for i in range(8):  # another size, so that no cache answers
        np.testing.assert_array_equal(encode(i, 5.0), together[i])


def test_prompt_to_codes_to_audio_by_hand(server, facts) -> None:
    prompt = infer(server, "fish_prompt", text=TEXTS[0])
    windows = stream(server, "fish_llama", prompt=prompt["prompt"], seed=5, **AS_UNARY)
    parts = []
    for w in sorted(windows, key=lambda w: w["chunk_index"][0]):
        out = infer(server, "fish_decoder", codes=w["codes"], new_frames=w["new_frames"])
        assert len(out["audio"]) == len(w["new_frames"]) * facts.samples_per_frame
        parts.append(out["audio"][: w["num_samples"][0]])
    whole = infer(server, "fish_tts", text=TEXTS[0], seed=5)
    np.testing.assert_array_equal(np.concatenate(parts), whole["audio"])
    assert whole["finish_reason"][0] == b"stop"
    assert whole["sample_rate"][0] == 44100


def test_streamed_audio_equals_decoding_everything_at_once(server, facts) -> None:
    prompt = infer(server, "fish_prompt", text=TEXTS[1])["prompt"]
    options = {"seed": 9, "first_chunk_frames": 3, "max_chunk_frames": 5}
    windows = stream(server, "fish_llama", prompt=prompt, **options)
    windows.sort(key=lambda w: w["chunk_index"][0])
    frames = [int(w["num_samples"][0]) // facts.samples_per_frame for w in windows]
    codes = np.concatenate(
        [
            w["codes"][:, w["codes"].shape[1] - len(w["new_frames"]) :][:, :n]
            for w, n in zip(windows, frames, strict=True)
        ],
        axis=1,
    )
    at_once = infer(server, "fish_decoder", codes=codes, new_frames=np.arange(codes.shape[1]))
    audio = joined(stream(server, "fish_tts_stream", text=TEXTS[1], **options))
    assert len(audio) == codes.shape[1] * facts.samples_per_frame
    assert np.abs(audio - at_once["audio"]).max() <= 1e-4
    assert audio.std() > 0.01


def test_clone_equals_encode_then_tts(server) -> None:
    audio, words = recording(2.0), "What is said in it."
    voice = infer(server, "fish_encode", reference_audio=audio)
    by_codes = infer(
        server, "fish_tts", text=TEXTS[0], seed=3, reference_text=words,
        reference_codes=voice["codes"], reference_frames=voice["reference_frames"],
        checkpoint_id=voice["checkpoint_id"],
    )  # fmt: skip
    reference = {"reference_audio": audio, "reference_text": words}
    cloned = infer(server, "fish_clone", text=TEXTS[0], seed=3, **reference)
    np.testing.assert_array_equal(cloned["audio"], by_codes["audio"])
    chunks = stream(server, "fish_clone_stream", text=TEXTS[0], seed=3, **reference, **AS_UNARY)
    np.testing.assert_array_equal(joined(chunks), cloned["audio"])
    chunks = stream(server, "fish_clone_stream", text=TEXTS[0], seed=3, **reference)
    np.testing.assert_allclose(joined(chunks), cloned["audio"], atol=1e-4)
    single = infer(server, "fish_tts", text=TEXTS[0], seed=3)
    assert not np.array_equal(single["audio"], cloned["audio"])


def test_three_in_a_row_and_eight_at_once_equal_each_alone(server) -> None:
    def speak(i: int) -> np.ndarray:
        return infer(server, "fish_tts", text=TEXTS[i % 3], seed=i)["audio"]

    single = [speak(i) for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(speak, range(8)))
    for i in range(8):
        np.testing.assert_allclose(together[i], single[i], atol=1e-4, err_msg=f"request {i}")
    assert len({a.tobytes() for a in single}) == 8


def test_streams_of_one_connection_do_not_mix(server) -> None:
    connection = Stream(server)
    try:
        for i in range(6):
            connection.send("fish_tts_stream", request_id=str(i + 1), text=TEXTS[i % 3], seed=i)
        collected = connection.collect(6)
    finally:
        connection.close()
    for i in range(6):
        expected = infer(server, "fish_tts", text=TEXTS[i % 3], seed=i)["audio"]
        np.testing.assert_allclose(joined(collected[str(i + 1)]), expected, atol=1e-4)


def test_http_infer_and_generate(server) -> None:
    base = f"http://{server.http_url.removeprefix('http://')}/v2/models"
    body = json.dumps({"text": TEXTS[0], "seed": 5, **AS_UNARY}).encode()
    with urllib.request.urlopen(f"{base}/fish_tts/generate", body) as answer:
        audio = np.array(json.load(answer)["audio"], np.float32)
    expected = infer(server, "fish_tts", text=TEXTS[0], seed=5)["audio"]
    np.testing.assert_allclose(audio, expected, atol=1e-6)
    with urllib.request.urlopen(f"{base}/fish_tts_stream/generate_stream", body) as answer:
        lines = [x for x in answer.read().decode().splitlines() if x.startswith("data: ")]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines]
    chunks.sort(key=lambda c: c["chunk_index"])
    parts = [np.atleast_1d(c["audio"])[: c["num_samples"]] for c in chunks]
    np.testing.assert_allclose(np.concatenate(parts), expected, atol=1e-6)


def test_repeated_reference_comes_from_the_cache(server) -> None:
    audio = recording(1.5, pitch=180)

    def hits() -> float:
        return metrics(server, "fish_encoder_cache_")["fish_encoder_cache_hits_total"]

    infer(server, "fish_encode", reference_audio=recording(0.9))
    infer(server, "fish_encode", reference_audio=recording(0.9))
    first, before = infer(server, "fish_encode", reference_audio=audio), hits()
    again = infer(server, "fish_encode", reference_audio=audio)
    assert hits() == before + 1
    np.testing.assert_array_equal(first["codes"], again["codes"])


@pytest.mark.parametrize("model", ["fish_tts", "fish_tts_stream"])
def test_callers_who_leave_free_their_slots(server, model) -> None:
    """Twelve are taken back long before twelve can be done."""
    before, inputs = outcomes(server)["cancelled"], tensors(text=TEXTS[1] * 3, seed=1)
    tokens = [uuid.uuid4().hex for _ in range(12)]
    ends: queue.Queue = queue.Queue()

    def answered(result, error) -> None:
        if error:
            ends.put(str(error))
        elif result.as_numpy("finish_reason").item() == b"cancelled":  # some of it was heard
            ends.put("cancelled: by the caller")

    with contextlib.ExitStack() as stack:
        for token in tokens:
            client = stack.enter_context(grpc.InferenceServerClient(server.grpc_url))
            parameters = {"cancel_token": token}
            if model == "fish_tts":
                client.async_infer(model, inputs, answered, parameters=parameters)
            else:
                client.start_stream(answered)
                client.async_stream_infer(model, inputs, parameters=parameters)
        for token in tokens:  # one or the other may have ended; those not yet begun count too
            infer(server, "fish_cancel", cancel_token=token)
        for _ in range(6):
            assert "cancelled: by the caller" in ends.get(timeout=20)
    assert outcomes(server)["cancelled"] >= before + 6
    assert not infer(server, "fish_cancel", cancel_token=tokens[0])["cancelled"][0]
    assert infer(server, "fish_tts", text=TEXTS[0], seed=1)["audio"].size


@pytest.mark.parametrize("token", ["", "../../etc/passwd", "0" * 31])
def test_what_is_no_token_is_refused(server, token) -> None:
    with pytest.raises(InferenceServerException, match="expected 32 hexadecimal digits"):
        infer(server, "fish_cancel", cancel_token=token)


def test_a_request_whose_timeout_passes_ends(server) -> None:
    """By Triton while it waits, by the engine while it is spoken; the words differ."""
    with grpc.InferenceServerClient(server.grpc_url) as client:
        for timeout_ms in (1, 15):  # all of it takes some 90
            begin = time.monotonic()
            with pytest.raises(InferenceServerException, match=r"[Tt]imeout"):
                inputs = tensors(text=TEXTS[1] * 20, seed=1, first_chunk_frames=100)
                client.infer("fish_tts", inputs, timeout=timeout_ms * 1000)
            assert time.monotonic() - begin < 5


def test_the_stage_is_seen_in_the_metrics(server) -> None:
    voice = infer(server, "fish_encode", reference_audio=recording(2.5, pitch=140))
    spoken = {
        "text": TEXTS[0], "reference_text": "Words of it.", "reference_codes": voice["codes"],
        "reference_frames": voice["reference_frames"], "seed": 1,
    }  # fmt: skip
    before = llama_metrics(server)
    first, again = (infer(server, "fish_tts", **spoken)["audio"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    time.sleep(0.7)
    after = llama_metrics(server)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("fish_llama_frames_total") >= 2 * len(first) // 2048
    assert grown("fish_llama_prefix_hits_total") == 1
    assert grown("fish_llama_prefix_misses_total") == 1
    assert grown('fish_llama_requests_total{outcome="stop"}') == 2
    assert grown("fish_llama_first_windows_total") == 2
    assert grown('fish_llama_steps_total{batch="1"}') >= len(first) // 2048
    assert after["fish_llama_prefix_bytes"] > 0
    assert after["fish_llama_active_slots"] == 0
    assert after["fish_llama_slots"] == 16
    assert after["fish_llama_kv_bytes_limit"] >= after["fish_llama_kv_bytes"] > 0
