"""Streams at the real server: equal in any batch, and ended exactly once on every path."""

import re
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from benchmarks.load.soak import ALLOWED_BYTES, ROUNDS, SETTLING, grown, soak
from launch.server import EXIT_TIMEOUT_S, Server
from support.launched import wait_until
from support.processes import megabytes
from support.raw import Stream, infer, joined, stream, tensors

pytestmark = pytest.mark.server
LONG = "A longer text that takes its time, word after word, to the very end of it."
TEXTS = ["Hello there.", "A second sentence, a little longer than that.", LONG]
# In float32, products round equally in batches of any size. A stub that crashes logs its stack.
EXACT = {"FISH_SPEECH_PRECISION": "full", "PYTHONFAULTHANDLER": "1"}


@pytest.fixture(scope="module")
def exact(repository, tmp_path_factory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("exact") / "log"
    with Server(repository, environment=EXACT, log_path=log) as server:
        yield server


@pytest.fixture(scope="module")
def jobs(exact) -> list[dict]:
    """16 different requests of the LLaMA stage, half of them with a voice."""
    tone = 0.3 * np.sin(np.arange(60_000) / 20).astype(np.float32)
    voice = infer(exact, "fish_encode", reference_audio=tone)
    spoken = {k: voice[k] for k in ("reference_frames", "checkpoint_id")}
    spoken |= {"reference_codes": voice["codes"], "reference_text": "What is said in it."}
    voices = [{}, spoken]
    return [
        {"text": TEXTS[i % 3], **voices[i % 2], "seed": i, "temperature": 0.6 + 0.1 * (i % 5),
         "max_new_tokens": 8 + 2 * i, "first_chunk_frames": 1 + i % 5}
        for i in range(16)
    ]  # fmt: skip


def of_llama(server: Server, job: dict) -> dict:
    """The same request, for fish_llama."""
    asked = {k: v for k, v in job.items() if k.startswith(("text", "reference", "checkpoint"))}
    options = {k: v for k, v in job.items() if k not in asked}
    return infer(server, "fish_prompt", **asked) | options


def codes_of(windows: list[dict]) -> np.ndarray:
    """int64 (codebooks, frames) of windows in order."""
    assert [int(w["chunk_index"][0]) for w in windows] == list(range(len(windows)))
    parts = []
    for window in windows:
        new = window["codes"][:, -len(window["new_frames"]) :]
        parts.append(new[:, : int(window["num_samples"][0]) // 2048])
    assert [bool(w["is_last"][0]) for w in windows] == [False] * (len(windows) - 1) + [True]
    return np.concatenate(parts, axis=1)


def test_sixteen_streams_in_a_batch_equal_each_by_itself(exact, jobs) -> None:
    """Codes are equal bit for bit, audio within the decoder's rounding."""

    def codes(job: dict) -> np.ndarray:
        return codes_of(stream(exact, "fish_llama", **job))

    def audio(job: dict) -> np.ndarray:
        return joined(stream(exact, "fish_tts_stream", **job))

    prompts = [of_llama(exact, job) for job in jobs]
    codes_apart, audio_apart = [codes(p) for p in prompts], [audio(j) for j in jobs]
    with ThreadPoolExecutor(16) as pool:
        codes_together = list(pool.map(codes, prompts))
        audio_together = list(pool.map(audio, jobs))
    for i in range(16):
        np.testing.assert_array_equal(codes_together[i], codes_apart[i], err_msg=f"stream {i}")
        np.testing.assert_allclose(audio_together[i], audio_apart[i], atol=1e-4, rtol=0)
        assert len(audio_apart[i]) == 2048 * codes_apart[i].shape[1]
    assert len({a.tobytes() for a in codes_apart}) == 16


def metric(server: Server, name: str) -> float:
    """A metric of the LLaMA stage, summed over its labels."""
    with urllib.request.urlopen(server.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    name = f"fish_llama_{name}"
    found = [x for x in lines if x.partition(" ")[0].partition("{")[0] == name]
    return sum(float(x.rpartition(" ")[2]) for x in found)


def idle(server: Server) -> bool:
    return not metric(server, "active_slots") and not metric(server, "waiting_requests")


PATHS = {
    "stop": ({"seed": 3}, {}, ""),
    "length": ({"max_new_tokens": 9, "max_chunk_frames": 4, "first_chunk_frames": 4}, {}, ""),
    "one frame": ({"max_new_tokens": 1}, {}, ""),
    "cancelled": ({"first_chunk_frames": 400}, {"parameters": {"cancel_token": "0" * 32}}, "cance"),
    "timeout": ({"text": LONG * 9, "first_chunk_frames": 400}, {"timeout": 15_000}, "[Tt]imeout"),
    "bad text": ({"text": ""}, {}, "text is empty"),
    "bad option": ({"temperature": 9.0}, {}, "temperature is 9"),
}


@pytest.mark.parametrize("model", ["fish_tts_stream", "fish_llama"])
@pytest.mark.parametrize("path", PATHS)
def test_every_path_ends_once(server, model, path) -> None:
    """All that follows on the same connection belongs to the next request."""
    values, more, message = PATHS[path]
    values = {"text": TEXTS[1], "seed": 1} | values
    if model == "fish_llama":
        if not values["text"]:
            values["prompt"], values["text"], message = np.zeros((3, 4)), "", "prompt has shape"
        else:
            values = of_llama(server, values)
        values.pop("text", None)
    if "parameters" in more:
        more = {"parameters": {"cancel_token": uuid.uuid4().hex}}
        # Before the request, which might have ended otherwise; in mid-speech: test_server_final.
        infer(server, "fish_cancel", cancel_token=more["parameters"]["cancel_token"])
    connection = Stream(server)
    try:
        connection.client.async_stream_infer(
            model, tensors(**values), request_id="it", enable_empty_final_response=True, **more
        )
        if message:
            with pytest.raises(InferenceServerException, match=message):
                connection.collect()
        else:
            (chunks,) = connection.collect().values()
            chunks.sort(key=lambda c: c["chunk_index"][0])
            reasons = [c["finish_reason"][0].decode() for c in chunks]
            last = "stop" if path == "stop" else "length"
            assert reasons == [""] * (len(chunks) - 1) + [last]
            assert [bool(r) for r in reasons] == [bool(c["is_last"][0]) for c in chunks]
            assert path != "length" or [c["num_samples"][0] for c in chunks] == [8192, 8192, 2048]
        connection.send("fish_tts_stream", request_id="next", text=TEXTS[0], max_new_tokens=2)
        assert set(connection.collect()) == {"next"}
    finally:
        connection.close()


def test_a_full_queue_refuses_at_once_and_loses_no_request(server) -> None:
    prompt = of_llama(server, {"text": TEXTS[0]})
    connection, count = Stream(server), 416
    try:
        for i in range(count):
            frames = 400 if i < 16 else 40  # they come faster than they end
            connection.send(
                "fish_llama", str(i), **prompt, seed=i, max_new_tokens=frames,
                first_chunk_frames=frames,
            )  # fmt: skip
        ended, late = Counter[str](), 0
        while ended.total() < count:
            result, error = connection.answers.get(timeout=60)
            if error is not None:
                full = "fish_llama: overloaded: 256 requests are waiting already" in str(error)
                # A slow machine would make some wait longer than they may.
                assert full or re.search("fish_llama: overloaded: (a|no) slot", str(error))
                ended["refused"] += 1
                late += not full
            elif result.get_response().parameters["triton_final_response"].bool_param:
                ended[result.get_response().id] += 1
        refused = ended.pop("refused")
        assert refused and refused - late <= count - 256
        assert set(ended.values()) == {1}
        assert connection.answers.empty()
    finally:
        connection.close()
    wait_until(lambda: idle(server), 60)
    assert infer(server, "fish_tts", text=TEXTS[0], seed=1, max_new_tokens=3)["audio"].size > 0


def test_a_slow_reader_delays_no_other_request(server) -> None:
    """It reads nothing until all others have ended and its own slots are free again."""
    options = {"first_chunk_frames": 1, "max_chunk_frames": 1}
    wait_until(lambda: idle(server), 60)
    before, reads = metric(server, "kv_bytes"), threading.Event()
    slow = Stream(server)
    put = slow.answers.put
    slow.answers.put = lambda answer: (reads.wait(60), put(answer))  # in the thread that reads
    try:
        for i in range(8):
            slow.send("fish_tts_stream", str(i), text=LONG, seed=i, **options)
        others = [stream(server, "fish_tts_stream", text=LONG, seed=i, **options) for i in range(3)]
        wait_until(lambda: idle(server), 60)
        assert metric(server, "kv_bytes") <= before
        assert slow.answers.empty()
        reads.set()
        read = slow.collect(8)
    finally:
        reads.set()
        slow.close()
    for i, chunks in enumerate(others):
        np.testing.assert_allclose(joined(read[str(i)]), joined(chunks), atol=1e-4, rtol=0)
    assert sum(len(chunks) for chunks in read.values()) > 100


def regions(server: Server) -> dict[str, int]:
    """The server's shared memory, bytes in use."""
    name = next(
        x.removeprefix("--backend-config=python,shm-region-prefix-name=")
        for x in Path(f"/proc/{server.pid}/cmdline").read_text().split("\0")
        if "shm-region-prefix-name" in x
    )
    return {f.name: f.stat().st_blocks * 512 for f in Path("/dev/shm").glob(f"{name}*")}


def test_a_soak_leaves_everything_as_it_was(server) -> None:
    models = ["fish_tts_stream", "fish_tts"]
    soak(server.grpc_url, models, 16, 16, 0)  # what is made once
    wait_until(lambda: idle(server), 60)
    shared, ended = regions(server), Counter()

    def work() -> None:
        ended.update(soak(server.grpc_url, models, 50, 16, 0.2, frames=12))
        wait_until(lambda: idle(server), 60)

    growth = grown(lambda: 1e6 * megabytes(server.pid), work, 50)
    assert growth < ALLOWED_BYTES
    assert set(ended) <= {"done", "cancelled"}, ended
    assert ended.total() == 50 * (SETTLING + ROUNDS)
    assert ended["done"] >= 0.7 * ended.total()
    assert regions(server).keys() == shared.keys()
    assert sum(regions(server).values()) < sum(shared.values()) + 16e6


def ends(connection: Stream, count: int) -> Counter:
    """How a number of requests of a connection ended; if it breaks, all that are left."""
    ended: Counter = Counter()
    try:
        while ended.total() < count:
            result, error = connection.answers.get(timeout=EXIT_TIMEOUT_S + 10)
            if error is not None:
                ended["refused"] += count - ended.total() if error.status() else 1
            elif result.get_response().parameters["triton_final_response"].bool_param:
                ended["whole"] += 1
    finally:
        connection.close()
    return ended


def test_a_new_server_generates_the_same_and_ends_streams(
    exact, jobs, repository, tmp_path
) -> None:
    """Stopping amid 96 streams completes or refuses each in time, and no stub crashes."""
    prompts = [of_llama(exact, job) for job in jobs[:3]]
    before = [codes_of(stream(exact, "fish_llama", **prompt)) for prompt in prompts]
    log = tmp_path / "log"
    with Server(repository, environment=EXACT, log_path=log) as server:
        for prompt, codes in zip(prompts, before, strict=True):
            np.testing.assert_array_equal(codes_of(stream(server, "fish_llama", **prompt)), codes)
        connections = [Stream(server) for _ in range(8)]
        for i, connection in enumerate(12 * connections):
            connection.send("fish_tts_stream", str(i), text=LONG, seed=i, first_chunk_frames=1)
        connections[0].answers.put(connections[0].answers.get(timeout=60))  # they have begun
        with ThreadPoolExecutor(9) as pool:
            begin = time.monotonic()
            stopped = pool.submit(server.stop)
            ended = sum(pool.map(ends, connections, [12] * 8), Counter())
            stopped.result()
        assert time.monotonic() - begin < EXIT_TIMEOUT_S + 10
    assert ended.total() == 96
    assert "Fatal Python error" not in log.read_text()
