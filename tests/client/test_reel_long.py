"""Segments too long for one request: spoken in parts; joined, captioned and counted as one."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer, Refusal, chunk, inputs_of, whole
from voicereel import Client, ServerError, stream_script, synthesize_script
from voicereel.script.sentences import parts_of

SENTENCES = [f"{number}{str(number) * 49}. " for number in range(1, 10)]
LONG = "".join(SENTENCES).strip()
SCRIPT = [
    {"speaker_id": "A", "text": "before"},
    {"speaker_id": "B", "text": LONG},
    {"speaker_id": "A", "text": "after"},
]
VOICES = {"A": None, "B": None}
PARTS = parts_of(LONG)


def speech(text: str) -> np.ndarray:
    """A sample for each character, of its value."""
    return np.array([ord(c) / 1000 for c in text], np.float32)


def spoken(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    yield whole(speech(inputs["text"].item().decode()))


@pytest.fixture
def fake(fake: FakeServer) -> FakeServer:
    fake.answer = spoken
    return fake


def test_parts_are_joined_without_a_seam(fake: FakeServer, client: Client) -> None:
    told: list[tuple[int, float]] = []
    audio, captions = synthesize_script(
        client, SCRIPT, VOICES, progress=lambda *done: told.append(done), seed=3
    )
    assert len(PARTS) == 2
    expected = [speech(text) for text in ("before", *PARTS, "after")]
    np.testing.assert_array_equal(audio.waveform, np.concatenate(expected))
    assert [caption["text"] for caption in captions] == ["before", LONG, "after"]
    length = sum(map(len, PARTS))
    assert [round(c["end"] * RATE_HZ) for c in captions] == [6, 6 + length, 11 + length]
    assert {inputs_of(request)["seed"].item() for request in fake.requests} == {3}
    assert sorted(number for number, _ in told) == [0, 1, 2]
    assert dict(told)[1] == pytest.approx(length / RATE_HZ)


def test_streamed(fake: FakeServer, client: Client) -> None:
    def streamed(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        said = chunk(0, samples=10, is_last=True)
        said["audio"][:] = int(inputs["text"].item().decode() == PARTS[1])
        yield said

    fake.answer = streamed
    pieces = list(stream_script(client, SCRIPT, VOICES))
    waveform = np.concatenate([piece.waveform for piece in pieces])
    np.testing.assert_array_equal(waveform, np.repeat([0, 0, 1, 0], 10))
    assert [piece.segment for piece in pieces if piece.caption] == [0, 1, 2]
    assert [piece.segment for piece in pieces if len(piece.waveform)] == [0, 1, 1, 2]


def test_one_part_that_fails_fails_the_segment(fake: FakeServer, client: Client) -> None:
    def failing(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        if inputs["text"].item().decode() == PARTS[0]:
            raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: boom")
        yield from spoken(inputs)

    fake.answer = failing
    with pytest.raises(ServerError, match=r"segment 2 of 3 \(B: .*boom"):
        synthesize_script(client, SCRIPT, VOICES)
    audio, captions = synthesize_script(client, SCRIPT, VOICES, on_error="skip")
    silence = np.zeros(RATE_HZ, np.float32)  # nothing of the second part
    expected = np.concatenate([speech("before"), silence, speech("after")])
    np.testing.assert_array_equal(audio.waveform, expected)
    assert ["error" in caption for caption in captions] == [False, True, False]


def test_a_segment_is_cut_off_if_a_part_is(fake: FakeServer, client: Client) -> None:
    def cut(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        is_first = inputs["text"].item().decode() == PARTS[0]
        reason = np.array([[b"length" if is_first else b"stop"]], np.object_)
        for answer in spoken(inputs):
            yield answer | {"finish_reason": reason}

    fake.answer = cut
    assert synthesize_script(client, SCRIPT, VOICES).audio.finish_reason == "length"
    assert synthesize_script(client, SCRIPT[:1], VOICES).audio.finish_reason == "stop"


def test_the_audio_is_an_array_where_one_is_expected(client: Client, tmp_path: Path) -> None:
    audio, _ = synthesize_script(client, SCRIPT[:1], VOICES)
    assert len(audio) == 6
    assert np.asarray(audio) is audio.waveform
    assert np.asarray(audio, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.concatenate([audio, audio])[6:], audio.waveform)
