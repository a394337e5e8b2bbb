"""The client against a server that fails in every way that a test asks for."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import voicereel
from support.fake_server import RATE_HZ, FakeServer, Refusal, chunk, inputs_of, whole
from voicereel import Client


def three_chunks(_: dict) -> Iterator[dict]:
    yield from (chunk(1), chunk(0), chunk(2, samples=7, is_last=True))


def test_chunks_are_ordered_and_trimmed(fake: FakeServer, client: Client) -> None:
    fake.answer = three_chunks
    chunks = list(client.stream("Hello."))
    assert [c.index for c in chunks] == [0, 1, 2]
    assert [c.is_last for c in chunks] == [False, False, True]
    assert [c.finish_reason for c in chunks] == ["", "", "stop"]
    assert {c.sample_rate_hz for c in chunks} == {RATE_HZ}
    expected = np.repeat([0, 1, 2], [50, 50, 7])
    np.testing.assert_array_equal(np.concatenate([c.waveform for c in chunks]), expected)


def test_a_last_chunk_may_be_empty(fake: FakeServer, client: Client) -> None:
    fake.answer = lambda _: iter([chunk(0), chunk(1, samples=0, is_last=True)])
    assert [len(c.waveform) for c in client.stream("Hello.")] == [50, 0]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "ended after 0 chunks"),
        ([chunk(0)], "ended after 1 chunks"),
        ([chunk(0), chunk(2, is_last=True)], "ended after 1 chunks"),
        ([chunk(0), chunk(0)], "chunk 0 came twice"),
        ([chunk(1), chunk(1)], "chunk 1 came twice"),
        ([chunk(0, is_last=True), chunk(1)], "after the last"),
        ([chunk(0, samples=50) | {"num_samples": np.array([[65]], np.int32)}], "65 are valid"),
        ([{"audio": np.zeros((1, 4), np.float32)}], "has no num_samples"),
    ],
)
def test_an_incomplete_stream_is_an_error(
    fake: FakeServer, client: Client, answers: list[dict], message: str
) -> None:
    fake.answer = lambda _: iter(answers)
    with pytest.raises(voicereel.ServerError, match=message):
        list(client.stream("Hello."))


def test_an_error_in_mid_stream_comes_after_the_chunks_before_it(
    fake: FakeServer, client: Client
) -> None:
    def answer(_: dict) -> Iterator[dict]:
        yield chunk(0)
        raise Refusal(grpc.StatusCode.INTERNAL, "fish_decoder: out of memory")

    fake.answer = answer
    chunks = client.stream("Hello.")
    assert next(chunks).index == 0
    with pytest.raises(voicereel.ServerError, match="fish_decoder: out of memory"):
        next(chunks)


def endless(_: dict) -> Iterator[dict]:
    for index in range(10_000):
        yield chunk(index)
        time.sleep(0.01)


def test_closing_a_stream_cancels_it_on_the_server(fake: FakeServer, client: Client) -> None:
    fake.answer = endless
    chunks = client.stream("Hello.")
    next(chunks)
    assert not fake.cancelled.is_set()
    chunks.close()
    assert fake.cancelled.wait(5)


def test_a_forgotten_stream_is_cancelled(fake: FakeServer, client: Client) -> None:
    fake.answer = endless
    next(client.stream("Hello."))
    gc.collect()
    assert fake.cancelled.wait(5)


def test_a_stream_that_is_not_read_is_never_sent(fake: FakeServer, client: Client) -> None:
    client.stream("Hello.").close()
    assert fake.requests == []


def test_a_complete_stream_is_not_cancelled(fake: FakeServer, client: Client) -> None:
    fake.answer = three_chunks
    list(client.stream("Hello."))
    assert not fake.cancelled.wait(0.2)


@pytest.mark.slow
def test_a_slow_consumer_loses_nothing_and_misses_no_deadline(
    fake: FakeServer, client: Client
) -> None:
    fake.answer = lambda _: (chunk(i, is_last=i == 299) for i in range(300))
    chunks = client.stream("Hello.", timeout_s=2)
    first = next(chunks)
    time.sleep(2.2)
    assert [first.index, *(c.index for c in chunks)] == list(range(300))


def test_a_stream_past_its_deadline(fake: FakeServer, client: Client) -> None:
    fake.answer = endless
    begin = time.monotonic()
    with pytest.raises(voicereel.DeadlineExceeded):
        list(client.stream("Hello.", timeout_s=0.3))
    assert time.monotonic() - begin < 10
    assert fake.cancelled.wait(5)


@pytest.mark.parametrize(
    ("reason", "expected"),
    [(b"cancelled", voicereel.Cancelled), (b"timeout", voicereel.DeadlineExceeded)],
)
def test_a_stream_that_the_server_ends_early(
    fake: FakeServer, client: Client, reason: bytes, expected: type[Exception]
) -> None:
    def ended_early(_: dict) -> Iterator[dict]:
        yield chunk(0)
        last = chunk(1, samples=0, is_last=True)
        yield last | {"finish_reason": np.array([[reason]], np.object_)}

    fake.answer = ended_early
    chunks = client.stream("Hello.")
    assert next(chunks).index == 0
    with pytest.raises(expected):
        next(chunks)


IN_ENSEMBLE = "in ensemble 'fish_tts_stream', "


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (IN_ENSEMBLE + "fish_prompt: invalid request: text is empty.", voicereel.InvalidRequest),
        ("fish_llama: overloaded: 256 requests are waiting.", voicereel.Overloaded),
        (IN_ENSEMBLE + "fish_llama: cancelled: by the caller", voicereel.Cancelled),
        ("fish_tts: cancelled: its timeout has passed", voicereel.DeadlineExceeded),
        (IN_ENSEMBLE + "[request id: 1] Exceeds maximum queue size", voicereel.Overloaded),
        ("[request id: 1] Request timeout expired", voicereel.Overloaded),
        ("Request for unknown model: 'fish_tts' is not found", voicereel.ServerUnavailable),
        (IN_ENSEMBLE + "fish_llama: out of memory", voicereel.ServerError),
        ("boom", voicereel.ServerError),
    ],
)
def test_errors_are_typed_and_repeat_the_server(
    fake: FakeServer, client: Client, message: str, expected: type[Exception]
) -> None:
    """By their words: a stream's have no status, and those behind a front door come as INTERNAL."""

    def refuse(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INTERNAL, message)
        yield

    fake.answer = refuse
    for call in (lambda: client.synthesize("Hello."), lambda: list(client.stream("Hello."))):
        with pytest.raises(voicereel.VoiceReelError) as caught:
            call()
        assert type(caught.value) is expected
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("INVALID_ARGUMENT", voicereel.InvalidRequest),
        ("UNAVAILABLE", voicereel.ServerUnavailable),
        ("DEADLINE_EXCEEDED", voicereel.DeadlineExceeded),
        ("CANCELLED", voicereel.Cancelled),
        ("UNKNOWN", voicereel.ServerError),
    ],
)
def test_without_known_words_the_status_counts(
    fake: FakeServer, client: Client, status: str, expected: type[Exception]
) -> None:
    def refuse(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode[status], "something")
        yield

    fake.answer = refuse
    with pytest.raises(voicereel.VoiceReelError) as caught:
        client.synthesize("Hello.")
    assert type(caught.value) is expected


def test_no_server() -> None:
    for protocol in ("grpc", "http"):
        with Client("127.0.0.1:1", protocol, timeout_s=5) as client:
            with pytest.raises(voicereel.ServerUnavailable):
                client.synthesize("Hello.")
            with pytest.raises(voicereel.ServerUnavailable):
                client.health()
            assert not client.ready()


def test_synthesize(fake: FakeServer, client: Client) -> None:
    samples = np.linspace(-1, 1, RATE_HZ // 2, dtype=np.float32)
    fake.answer = lambda _: iter([whole(samples)])
    audio = client.synthesize("Hello.", seed=2**64 - 1, temperature=0.5)
    np.testing.assert_array_equal(audio.waveform, samples)
    assert (audio.sample_rate_hz, audio.finish_reason, audio.duration_s) == (RATE_HZ, "stop", 0.5)
    request = fake.requests[0]
    assert request.model_name == "fish_tts"
    assert request.parameters["timeout"].int64_param == 10_000_000
    inputs = inputs_of(request)
    assert inputs["text"][0, 0].decode() == "Hello."
    assert inputs["seed"].item() == 2**64 - 1


def test_long_audio_both_ways(fake: FakeServer, client: Client) -> None:
    """gRPC's own limit is 4 MB."""
    features = voicereel.VoiceFeatures(np.zeros((10, 60_000), np.int64), (60_000,), ("a",), "id")
    fake.answer = lambda inputs: iter([whole(np.zeros(inputs["reference_codes"].size * 4))])
    assert len(client.synthesize("Hello.", features).waveform) == 2_400_000


def test_threads_share_a_client(fake: FakeServer, client: Client) -> None:
    def echo(inputs: dict) -> Iterator[dict]:
        n = int(inputs["text"][0, 0])
        yield chunk(1, samples=n, is_last=True)
        yield chunk(0, samples=n)

    fake.answer = echo

    def lengths(n: int) -> list[int]:
        return [len(c.waveform) for c in client.stream(str(n))]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lengths, range(64))) == [[n, n] for n in range(64)]
    assert len({request.id for request in fake.requests}) == 64


def test_readiness(fake: FakeServer, client: Client) -> None:
    assert client.ready()
    fake.not_ready = {"fish_encode"}
    assert not client.ready()
    assert [name for name, up in client.health().items() if not up] == ["fish_encode"]


def test_timeouts_and_protocols_are_checked() -> None:
    for timeout_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout_s"):
            Client(timeout_s=timeout_s)
    with pytest.raises(ValueError, match="protocol"):
        Client(protocol="carrier pigeon")  # type: ignore[arg-type]


def test_import_needs_neither_torch_nor_the_server_side() -> None:
    blocked = ["torch", "onnxruntime", "gevent", "ensemble", "engine", "export", "pytriton"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked}))
import voicereel, voicereel.cli
from voicereel.fish_speech_optimized import get_optimized_engine
get_optimized_engine("127.0.0.1:1")
voicereel.Client("127.0.0.1:1").close()
voicereel.Client("127.0.0.1:1", "http").close()
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
