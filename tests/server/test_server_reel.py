"""Fifteen segments of two speakers by the real models: each equals its own synthesis."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.demo import run as demo
from launch.server import Server
from voicereel import Client, Options, VoiceFeatures, stream_script, synthesize_script

pytestmark = pytest.mark.server

PROJECT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4  # float32, the same codes decoded in windows of other shapes
ASKED: Options = {"seed": 5, "max_new_tokens": 20}
SILENCE = 441  # samples
SCRIPT = [
    {
        "speaker_id": ("Alice", "Bob")[number % 2],
        "text": f"{number}. " + "Well, well. " * (number % 4),
    }
    for number in range(15)
]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="module")
def voices(client: Client) -> dict[str, VoiceFeatures]:
    return {
        name: client.encode_voice(demo.VOICES / f"{name.lower()}.flac", words)
        for name, words in demo.WORDS.items()
    }


def test_every_segment_sounds_as_it_does_alone(
    client: Client, voices: dict[str, VoiceFeatures]
) -> None:
    silence_s = SILENCE / 44_100
    audio, captions = synthesize_script(client, SCRIPT, voices, silence_s=silence_s, **ASKED)
    end = -SILENCE
    for segment, caption in zip(SCRIPT, captions, strict=True):
        assert (caption["speaker"], caption["text"]) == (segment["speaker_id"], segment["text"])
        start = round(caption["start"] * audio.sample_rate_hz)
        assert start == end + SILENCE
        end = round(caption["end"] * audio.sample_rate_hz)
        single = client.synthesize(segment["text"], voices[segment["speaker_id"]], **ASKED)
        np.testing.assert_allclose(audio.waveform[start:end], single.waveform, atol=TOLERANCE)
        assert not audio.waveform[end : end + SILENCE].any()
    assert end == len(audio.waveform)
    pieces = stream_script(client, SCRIPT, voices, silence_s=silence_s, **ASKED)
    streamed = np.concatenate([piece.waveform for piece in pieces])
    np.testing.assert_allclose(streamed, audio.waveform, atol=TOLERANCE)


def test_command(server: Server, voices: dict[str, VoiceFeatures], tmp_path: Path) -> None:
    for name, voice in voices.items():
        voice.save(tmp_path / f"{name}.npz")
    (tmp_path / "play.txt").write_text("Alice: Good morning.\nBob: Is it?\n")
    files = ["play.txt", "-o", "reel.flac", "--captions", "reel.vtt"]
    said = ["--voice", "Alice=Alice.npz", "--voice", "Bob=Bob.npz", "--max-new-tokens", "20"]
    shared = ["--url", server.grpc_url, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "voicereel", "script", *files, *said, *shared],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{PROJECT / 'client'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["audio_s"] == soundfile.info(tmp_path / "reel.flac").duration
    assert "<v Bob>Is it?" in (tmp_path / "reel.vtt").read_text()
