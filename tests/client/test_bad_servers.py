"""Servers that answer nonsense: a typed error, in the time and the memory that a call may take."""

import gzip
import itertools
import json
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.utils import np_to_triton_dtype

from support.fake_server import FakeServer, Refusal, chunk, whole
from support.rude_server import answer_of, rude
from voicereel import Client, ServerError, VoiceReelError
from voicereel.transport import base
from voicereel.transport.base import answered, raw_bytes

TIMEOUT_S = 0.7
HEAD = b"HTTP/1.1 200 OK\r\n"


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def slowly(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces
    for _ in range(1000):
        time.sleep(0.05)
        yield b"x"


def outputs(tensors: dict[str, Any], size: Any = None, **changed: Any) -> bytes:
    """The answer of Triton's HTTP service; `changed` replaces what it says of the audio."""
    raws = [raw_bytes(array) for array in tensors.values()]
    told = [
        {"name": name, "datatype": np_to_triton_dtype(array.dtype), "shape": list(array.shape),
         "parameters": {"binary_data_size": len(raw)}}
        for (name, array), raw in zip(tensors.items(), raws, strict=True)
    ]  # fmt: skip
    told[0] |= changed
    if size is not None:
        told[0]["parameters"] = {"binary_data_size": size}
    text = json.dumps({"outputs": told}).encode()
    return answer_of(text + b"".join(raws), len(text))


GOOD = whole(np.zeros(10))
DEEP = b"[" * 60_000
ANSWERS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: [],
    "no HTTP": lambda: [b"\x00\xff\x16\x03\x01 hello\r\n\r\n"],
    "no JSON": lambda: [answer_of(b"<html>", 6)],
    "no header length": lambda: [answer_of(b"{}")],
    "a header length that is no number": lambda: [answer_of(b"{}", "9" * 5000)],  # type: ignore[arg-type]
    "a header longer than the body": lambda: [answer_of(b"{}", 3)],
    "a huge header": lambda: [answer_of(b" " * 2**20, 2**20)],
    "endless nesting": lambda: [answer_of(DEEP, len(DEEP))],
    "an integer of 5,000 digits": lambda: [answer_of(b"9" * 5000, 5000)],
    "a list": lambda: [answer_of(b"[]", 2)],
    "outputs that are a number": lambda: [answer_of(b'{"outputs":1}', 13)],
    "outputs of numbers": lambda: [answer_of(b'{"outputs":[1]}', 15)],
    "a length of 1e11": lambda: [HEAD + b"Content-Length: 100000000000\r\n\r\n"],
    "a negative length": lambda: [HEAD + b"Content-Length: -1\r\nX: y\r\n\r\n"],
    "endless headers": lambda: itertools.chain([HEAD], itertools.repeat(b"X-A: b\r\n")),
    "an endless header": lambda: itertools.chain([HEAD, b"X: "], itertools.repeat(b"a" * 4096)),
    "endless continues": lambda: itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a trickle of headers": lambda: slowly(HEAD, b"X: "),
    "a trickle of a body": lambda: slowly(HEAD, b"Content-Length: 10000\r\n\r\n"),
    "a body without end": lambda: itertools.chain(
        [HEAD, b"Inference-Header-Content-Length: 2\r\n\r\n"], itertools.repeat(b"a" * 2**18)
    ),
    "chunks without end": lambda: itertools.chain(
        [HEAD, b"Transfer-Encoding: chunked\r\n\r\n"], itertools.repeat(b"40000\r\n" + b"a" * 2**18)
    ),
    "a body that ends early": lambda: [HEAD + b"Content-Length: 100\r\n\r\n{}"],
    "gzip": lambda: [answer_of(gzip.compress(bytes(10**7)), 2, Content_Encoding="gzip")],
    "a redirect": lambda: [
        b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/secret\r\nContent-Length: 0\r\n\r\n"
    ],
    "an error without end": lambda: itertools.chain(
        [b"HTTP/1.1 500 No\r\n\r\n"], itertools.repeat(b"[" * 2**16)
    ),
    "an error that is a list": lambda: [
        b'HTTP/1.1 500 No\r\nContent-Length: 14\r\n\r\n{"error": [1]}'
    ],
    "missing outputs": lambda: [outputs({"audio": GOOD["audio"]})],
    "a truncated tensor": lambda: [outputs(GOOD)[:-6]],
    "a size that is too large": lambda: [outputs(GOOD, size=10**11)],
    "a size that is negative": lambda: [outputs(GOOD, size=-4)],
    "a size that is a text": lambda: [outputs(GOOD, size="4")],
    "another shape": lambda: [outputs(GOOD, shape=[1, 11])],
    "a negative shape": lambda: [outputs(GOOD, shape=[-1, -10])],
    "a shape of 1e11": lambda: [outputs(GOOD, shape=[1, 10**11])],
    "a shape of 100 axes": lambda: [outputs(GOOD, shape=[1] * 99 + [10])],
    "a shape of texts": lambda: [outputs(GOOD, shape=["1", "10"])],
    "a shape that is a number": lambda: [outputs(GOOD, shape=10)],
    "another type": lambda: [outputs(GOOD, datatype="INT32")],
    "no type at all": lambda: [outputs(GOOD, datatype="FP33")],
    "texts for audio": lambda: [outputs(GOOD, datatype="BYTES")],
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_nonsense_over_http_is_a_typed_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 8 * 2**20
    monkeypatch.setattr("voicereel.transport.http.MAX_RESPONSE_BYTES", limit)
    before, begin = peak_mb(), time.monotonic()
    with rude(ANSWERS[name]) as url, Client(url, "http", timeout_s=TIMEOUT_S, return_s=0) as client:  # noqa: SIM117
        with pytest.raises(VoiceReelError) as caught:
            client.synthesize("Hello.")
    assert time.monotonic() - begin < 2 * TIMEOUT_S
    assert peak_mb() - before < 100
    assert 10 < len(str(caught.value)) < 400


def test_the_elsewhere_of_a_redirect_is_named_and_not_asked() -> None:
    to = r"HTTP 302 to 'http://10\.0\.0\.1/secret', which is not followed"
    with (
        rude(ANSWERS["a redirect"]) as url,
        Client(url, "http") as client,
        pytest.raises(ServerError, match=to),
    ):
        client.synthesize("Hello.")


def test_a_trickle_does_not_hold_up_a_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("voicereel.client._READY_TIMEOUT_S", 0.3)
    begin = time.monotonic()
    with rude(ANSWERS["a trickle of headers"]) as url, Client(url, "http") as client:
        assert not client.ready()
    assert time.monotonic() - begin < 5


def without(name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in chunk(0, is_last=True).items() if key != name}


AUDIO, NAN = np.zeros((1, 64), np.float32), np.full((1, 64), np.nan, np.float32)
CHANGES: dict[str, dict[str, Any]] = {
    "NaN": {"audio": NAN},
    "infinity": {"audio": np.full((1, 64), np.inf, np.float32)},
    "audio of float64": {"audio": AUDIO.astype(np.float64)},
    "audio of integers": {"audio": AUDIO.astype(np.int32)},
    "audio as texts": {"audio": np.array([[b"a"]], np.object_)},
    "audio without a batch": {"audio": AUDIO[0]},
    "audio in stereo": {"audio": AUDIO[None]},
    "audio twice": {"audio": np.concatenate([AUDIO, AUDIO])},
    "a negative rate": {"sample_rate": np.array([[-44100]], np.int32)},
    "a rate of 0": {"sample_rate": np.array([[0]], np.int32)},
    "an absurd rate": {"sample_rate": np.array([[2**31 - 1]], np.int32)},
    "a rate of float": {"sample_rate": np.array([[44100]], np.float32)},
    "no rate in it": {"sample_rate": np.empty((1, 0), np.int32)},
    "two rates": {"sample_rate": np.array([[44100, 1]], np.int32)},
    "a reason that is no UTF-8": {"finish_reason": np.array([[b"\xff"]], np.object_)},
    "a reason that is a number": {"finish_reason": np.array([[1]], np.int32)},
    "a reason that is a novel": {"finish_reason": np.array([[b"a" * 10**6]], np.object_)},
    **{f"no {name}": {name: None} for name in ("audio", "sample_rate", "finish_reason")},
}
OF_STREAMS: dict[str, dict[str, Any]] = {
    "more valid samples than there are": {"num_samples": np.array([[65]], np.int32)},
    "fewer than none": {"num_samples": np.array([[-1]], np.int32)},
    "a negative index": {"chunk_index": np.array([[-1]], np.int32)},
    "an index of float": {"chunk_index": np.array([[0.5]], np.float32)},
    "a last that is a number": {"is_last": np.array([[3]], np.int32)},
    **{f"no {name}": {name: None} for name in ("num_samples", "chunk_index", "is_last")},
}


def changed(change: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    good = whole(np.zeros(64)) | chunk(0, samples=64, is_last=True) | {"audio": AUDIO}
    yield {name: value for name, value in (good | change).items() if value is not None}


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way in ("unary", "stream") for name in CHANGES]
    + [("stream", name) for name in OF_STREAMS],
)  # fmt: skip
def test_nonsense_over_grpc_is_a_server_error(
    fake: FakeServer, client: Client, way: str, name: str
) -> None:
    change = (CHANGES | OF_STREAMS)[name]
    fake.answer = lambda _: changed(change)
    with pytest.raises(ServerError) as caught:
        client.synthesize("Hello.") if way == "unary" else list(client.stream("Hello."))
    assert next(iter(change)) in str(caught.value) or "chunk" in str(caught.value)


def test_a_voice_that_is_none_is_a_server_error(fake: FakeServer, client: Client, tmp_path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(44100) + 0.1, 44100)
    good = {
        "codes": np.ones((1, 10, 4), np.int64),
        "reference_frames": np.array([[4]], np.int32),
        "checkpoint_id": np.array([[b"x"]], np.object_),
    }
    for change in (
        {"codes": good["codes"] * -1}, {"codes": good["codes"] << 40},
        {"codes": good["codes"][0]}, {"codes": good["codes"][:, :, :0]},
        {"codes": good["codes"].astype(np.float32)},
        {"reference_frames": np.array([[0]], np.int32)},
        {"reference_frames": np.array([[5]], np.int32)},
        {"checkpoint_id": np.array([[b"\xff"]], np.object_)},
    ):  # fmt: skip
        fake.answer = lambda _, change=change: iter([good | change])
        with pytest.raises(ServerError):
            client.encode_voice(tmp_path / "a.wav", "words")


@pytest.mark.parametrize(
    "facts",
    [[], {"letters_per_s": "ab"}, {"letters_per_s": [3]}, {"letters_per_s": [30, 3]},
     {"letters_per_s": [float("nan"), 3]}, {"letters_per_request": "many"},
     {"letters_per_request": -1}, {"options": []}, {"options": {"seed": 1}}],
)  # fmt: skip
def test_facts_that_make_no_sense(fake: FakeServer, client: Client, facts: Any) -> None:
    fake.facts, fake.answer = facts, lambda _: iter([whole(np.zeros(10))])
    assert client.speech_facts().letters_per_s == (3.0, 30.0)
    assert client.synthesize("Hello. Good morning.").finish_reason == "stop"
    with pytest.raises(ServerError, match="fish_checkpoint: cannot be read"):
        client.checkpoint()


@pytest.mark.parametrize("told", [b"[" * 10**5, b"9" * 5000, b"\xff", b""])
def test_a_checkpoint_that_is_no_json(told: bytes) -> None:
    from voicereel.checkpoint import checkpoint_from

    with pytest.raises(ServerError, match="cannot be read"):
        checkpoint_from({"checkpoint": np.array([[told]], np.object_)})


def test_a_message_without_end_is_cut(fake: FakeServer, client: Client) -> None:
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: boom " + "x" * 10**6)
        yield

    fake.answer = answer
    with pytest.raises(ServerError) as caught:
        list(client.stream("Hello."))
    assert len(str(caught.value)) < 2100


def test_chunks_without_a_first_are_not_kept_for_ever(fake: FakeServer, client: Client) -> None:
    fake.answer = lambda _: (chunk(index) for index in itertools.count(1))
    with pytest.raises(ServerError, match="chunk 0 is missing"):
        list(client.stream("Hello."))


def test_what_nobody_reads_is_bounded(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voicereel.transport.grpc.MAX_RESPONSE_BYTES", 2**18)
    sent = itertools.count()
    fake.answer = lambda _: (chunk(index) for index in sent)
    stream = client.stream("Hello.")
    next(stream)
    time.sleep(0.5)
    with pytest.raises(ServerError, match="came and wait"):
        for _ in stream:
            pass
    assert next(sent) < 100_000


def test_a_compressed_answer_over_grpc_is_refused(
    fake: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compressed(self: FakeServer, request: Any, context: Any) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        return _one(whole(np.zeros(10**6)))

    from support.fake_server import _answer as _one

    monkeypatch.setattr(FakeServer, "ModelInfer", compressed)
    with pytest.raises(VoiceReelError):
        client.synthesize("Hello.")


def test_a_shape_is_checked_before_anything_is_made() -> None:
    for shape in ([-1, -4], [2**40, 2**40], [1, True, -1]):
        with pytest.raises(ServerError, match="'audio' is FP32"):
            answered("audio", "FP32", shape, bytes(16))
    with pytest.raises(ServerError, match="no such tensor"):
        answered("text", "BYTES", [1], b"\xff\xff\xff\xff")
    assert base.MAX_RESPONSE_BYTES > 32_768 * 2048 * 4
