"""A script becomes one waveform with captions: order, silence, options of each segment."""

from collections.abc import Iterator

import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer, inputs_of
from support.script_server import (
    LENGTHS,
    SCRIPT,
    VOICES,
    joined,
    speech,
    spoken,
    streamed,
    text_of,
)
from voicereel import (
    Client,
    ServerError,
    VoiceFeatures,
    stream_script,
    synthesize_script,
)


@pytest.fixture
def fake(fake: FakeServer) -> FakeServer:
    fake.answer = spoken
    return fake


def test_order_and_captions(client: Client) -> None:
    reel = synthesize_script(client, SCRIPT, VOICES)
    np.testing.assert_array_equal(reel.audio.waveform, joined("1", "22222", "333", "4444"))
    assert (reel.audio.sample_rate_hz, reel.audio.finish_reason) == (RATE_HZ, "stop")
    ends = np.cumsum(LENGTHS).tolist()
    assert reel.captions == [
        {
            "start": (end - length) / RATE_HZ,
            "end": end / RATE_HZ,
            "speaker": segment["speaker_id"],
            "text": segment["text"],
        }
        for end, length, segment in zip(ends, LENGTHS, SCRIPT, strict=True)
    ]


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_silence(fake: FakeServer, client: Client, way: str) -> None:
    script = [SCRIPT[0], SCRIPT[1] | {"silence_after_s": 0}, SCRIPT[2], SCRIPT[3]]
    if way == "whole":
        audio, captions = synthesize_script(client, script, VOICES, silence_s=7 / RATE_HZ)
        waveform = audio.waveform
    else:
        fake.answer = streamed
        pieces = list(stream_script(client, script, VOICES, silence_s=7 / RATE_HZ))
        waveform = np.concatenate([piece.waveform for piece in pieces])
        captions = [piece.caption for piece in pieces if piece.caption]
    np.testing.assert_array_equal(waveform, joined("1", 7, "22222", "333", 7, "4444"))
    for caption in captions:  # to the sample
        start, end = (round(caption[edge] * RATE_HZ) for edge in ("start", "end"))
        np.testing.assert_array_equal(waveform[start:end], speech(caption["text"]))


def test_only_its_own_silence_follows_the_last_segment(client: Client) -> None:
    script = [SCRIPT[0] | {"silence_after_s": 9 / RATE_HZ}]
    audio, captions = synthesize_script(client, script, VOICES, silence_s=1)
    np.testing.assert_array_equal(audio.waveform, joined("1", 9))
    assert captions[0]["end"] == 10 / RATE_HZ


def test_options_and_voices_reach_their_segments(fake: FakeServer, client: Client) -> None:
    features = VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id")
    script = [SCRIPT[0], SCRIPT[1] | {"options": {"seed": 9, "temperature": 0.5, "top_p": None}}]
    synthesize_script(client, script, {"A": None, "B": features, "C": None}, seed=7, top_p=0.25)
    got = {text_of(inputs): inputs for inputs in map(inputs_of, fake.requests)}
    assert {name: got["1"][name].item() for name in ("seed", "top_p")} == {"seed": 7, "top_p": 0.25}
    assert "temperature" not in got["1"] and "reference_codes" not in got["1"]
    assert (got["22222"]["seed"].item(), got["22222"]["temperature"].item()) == (9, 0.5)
    assert "top_p" not in got["22222"]
    np.testing.assert_array_equal(got["22222"]["reference_codes"][0], features.codes)


def test_a_reel_is_cut_off_if_a_segment_is(fake: FakeServer, client: Client) -> None:
    def cut(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        reason = b"length" if text_of(inputs) == "333" else b"stop"
        for answer in spoken(inputs):
            yield answer | {"finish_reason": np.array([[reason]], np.object_)}

    fake.answer = cut
    assert synthesize_script(client, SCRIPT, VOICES).audio.finish_reason == "length"


def test_two_sample_rates_are_an_error(fake: FakeServer, client: Client) -> None:
    def other(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        rate = 24_000 if text_of(inputs) == "333" else RATE_HZ
        for answer in spoken(inputs):
            yield answer | {"sample_rate": np.array([[rate]], np.int32)}

    fake.answer = other
    with pytest.raises(ServerError, match=r"segment 3 of 4 .* 24000 Hz, expected 44100 Hz"):
        synthesize_script(client, SCRIPT, VOICES)
