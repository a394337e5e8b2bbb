"""A segment that fails, and a script that is wrong: named, skipped, or found before any work."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.fake_server import RATE_HZ, FakeServer
from support.script_server import (
    SCRIPT,
    VOICES,
    failing,
    joined,
    spoken,
    streamed,
    text_of,
)
from voicereel import (
    Client,
    InvalidRequest,
    ReelPiece,
    ServerError,
    stream_script,
    synthesize_script,
)


@pytest.fixture
def fake(fake: FakeServer) -> FakeServer:
    fake.answer = spoken
    return fake


@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_a_failed_segment_is_named(fake: FakeServer, client: Client, way: str) -> None:
    text = "3" * 30 + " and much more of it"
    script = [*SCRIPT[:2], SCRIPT[2] | {"text": text}, SCRIPT[3]]
    heard: list[ReelPiece] = []
    with pytest.raises(ServerError) as raised:
        if way == "whole":
            fake.answer = failing(text)
            synthesize_script(client, script, VOICES)
        else:
            fake.answer = failing(text, streamed)
            for piece in stream_script(client, script, VOICES):
                heard.append(piece)
    assert str(raised.value) == (
        "segment 3 of 4 (A: '333333333333333333333333333333 and mu...'): fish_llama: boom"
    )
    if way == "streamed":  # what comes before it is heard first
        assert sum(len(piece.waveform) for piece in heard) == 60


def test_errors_stay_of_their_kind(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("333", message="fish_prompt: invalid request: text is bad")
    with pytest.raises(InvalidRequest, match="segment 3 of 4"):
        synthesize_script(client, SCRIPT, VOICES)


def test_nothing_is_begun_after_a_failure(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("22222")
    with pytest.raises(ServerError, match="segment 2 of 4"):
        synthesize_script(client, SCRIPT, VOICES, parallel=False)
    assert len(fake.requests) == 1


def test_skipping_leaves_a_gap_that_says_so(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("22222")
    audio, captions = synthesize_script(
        client, SCRIPT, VOICES, on_error="skip", silence_s=5 / RATE_HZ
    )
    expected = joined("1", 5 + RATE_HZ + 5, "333", 5, "4444")
    np.testing.assert_array_equal(audio.waveform, expected)
    assert captions[1] == {
        "start": 15 / RATE_HZ,
        "end": (15 + RATE_HZ) / RATE_HZ,
        "speaker": "B",
        "text": "[not spoken: ServerError] 22222",
        "error": "segment 2 of 4 (B: '22222'): fish_llama: boom",
    }
    assert round(captions[2]["start"] * RATE_HZ) == 20 + RATE_HZ


def test_skipping_in_mid_speech_keeps_what_was_heard(fake: FakeServer, client: Client) -> None:
    def breaks_off(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        chunks = sorted(streamed(inputs), key=lambda c: c["chunk_index"].item())
        yield from chunks[:1] if text_of(inputs) == "22222" else chunks

    fake.answer = breaks_off
    pieces = list(stream_script(client, SCRIPT[:3], VOICES, on_error="skip"))
    waveform = np.concatenate([piece.waveform for piece in pieces])
    np.testing.assert_array_equal(waveform, joined("1", "22222", RATE_HZ, "333")[_without(35, 60)])
    ends = [piece for piece in pieces if piece.caption]
    assert [piece.finish_reason for piece in ends] == ["stop", "", "stop"]
    assert "audio is incomplete" in str(ends[1].error)
    assert round(ends[2].caption["start"] * RATE_HZ) == 35 + RATE_HZ  # type: ignore[index]


def _without(start: int, end: int) -> np.ndarray:
    kept = np.ones(10 + 50 + RATE_HZ + 30, bool)
    kept[start:end] = False
    return kept


def test_when_all_fail_skipping_does_not_help(fake: FakeServer, client: Client) -> None:
    fake.answer = failing("1")
    with pytest.raises(ServerError, match="segment 1 of 1"):
        synthesize_script(client, SCRIPT[:1], VOICES, on_error="skip")


def test_what_is_wrong_is_found_before_any_work(
    fake: FakeServer, client: Client, tmp_path: Path
) -> None:
    nobody = [*SCRIPT, {"speaker_id": "EVE", "text": "5"}]
    unknown = r"segment 5 of 5 \(EVE: '5'\): there are no features of speaker 'EVE', only A, B"
    for speak in (synthesize_script, stream_script):
        with pytest.raises(InvalidRequest, match=unknown):
            speak(client, nobody, VOICES)
        with pytest.raises(InvalidRequest, match=r"'B' are voice\.wav, expected a \.npz"):
            speak(client, SCRIPT, VOICES | {"B": "voice.wav"})
        with pytest.raises(InvalidRequest, match="no such file"):
            speak(client, SCRIPT, VOICES | {"B": str(tmp_path / "voice.npz")})
        with pytest.raises(InvalidRequest, match="'B' are int, expected VoiceFeatures"):
            speak(client, SCRIPT, VOICES | {"B": 3})  # type: ignore[dict-item]
        with pytest.raises(InvalidRequest, match="script: segment 2: text is missing"):
            speak(client, [SCRIPT[0], {"speaker_id": "A"}], VOICES)
        for wrong in ({"max_workers": 0}, {"on_error": "ignore"}, {"silence_s": -1.0}):
            with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, expected"):
                speak(client, SCRIPT, VOICES, **wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="no option speed"):
            speak(client, SCRIPT, VOICES, speed=2)  # type: ignore[call-arg]
    assert fake.requests == []
