"""The client, its command line, the examples and the demo against the real models."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import voicereel
from benchmarks.demo import run as demo
from launch.server import EXIT_TIMEOUT_S, Server
from voicereel import Client, Options, VoiceFeatures

pytestmark = pytest.mark.server

PROJECT = Path(__file__).resolve().parents[2]
ALICE = PROJECT / "assets" / "voices" / "alice.flac"
WORDS = demo.WORDS["Alice"]
TEXT = "Hello from a real server."
ASKED: Options = {"seed": 5, "max_new_tokens": 60}
TOLERANCE = 1e-4  # float32, the same codes decoded in windows of other shapes


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.grpc_url, timeout_s=60) as client:
        yield client


@pytest.fixture(scope="module")
def voice(client: Client) -> VoiceFeatures:
    return client.encode_voice(ALICE, WORDS)


def joined(client: Client, voice: VoiceFeatures, text: str = TEXT, **asked: int) -> np.ndarray:
    chunks = list(client.stream(text, voice, **{**ASKED, **asked}))  # type: ignore[arg-type]
    return np.concatenate([chunk.waveform for chunk in chunks])


def test_everything_is_ready(client: Client) -> None:
    assert client.ready()


def test_features(voice: VoiceFeatures) -> None:
    info = soundfile.info(ALICE)
    assert voice.frames == (-(-info.frames // 2048),)
    assert voice.codes.shape[1] == voice.frames[0]
    assert voice.checkpoint_id


def test_every_way_gives_the_same_audio(
    server: Server, client: Client, voice: VoiceFeatures
) -> None:
    audio = client.synthesize(TEXT, voice, **ASKED)
    assert audio.sample_rate_hz == 44_100
    assert 0 < np.abs(audio.waveform).max() <= 1
    others = [
        joined(client, voice),
        joined(client, voice, first_chunk_frames=1, max_chunk_frames=3),
        joined(client, voice, first_chunk_frames=512, max_chunk_frames=512),
        client.synthesize(TEXT, ALICE, voice_text=WORDS, **ASKED).waveform,
    ]
    with Client(server.http_url, "http", timeout_s=60) as http:
        others.append(http.synthesize(TEXT, voice, **ASKED).waveform)
    for other in others:
        np.testing.assert_allclose(other, audio.waveform, atol=TOLERANCE, rtol=0)


def test_a_voice_of_two_recordings_and_none(client: Client, voice: VoiceFeatures) -> None:
    one, two, none = (client.synthesize(TEXT, v, **ASKED) for v in (voice, voice + voice, None))
    assert len(one.waveform) > 0
    assert len(none.waveform) > 0
    assert not np.array_equal(one.waveform[:2048], two.waveform[:2048])
    assert not np.array_equal(one.waveform[:2048], none.waveform[:2048])


def test_length_is_a_reason_to_finish(client: Client, voice: VoiceFeatures) -> None:
    audio = client.synthesize(TEXT, voice, seed=5, max_new_tokens=2)
    assert audio.finish_reason == "length"
    assert len(audio.waveform) == 2 * 2048


def test_requests_in_flight_together_do_not_mix(client: Client, voice: VoiceFeatures) -> None:
    def speak(seed: int) -> np.ndarray:
        return joined(client, voice, f"Line {seed}.", seed=seed)

    single = [speak(seed) for seed in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(speak, range(8)))
    for a, b in zip(single, together, strict=True):
        np.testing.assert_allclose(b, a, atol=TOLERANCE, rtol=0)


def test_closing_early_leaves_the_server_well(client: Client, voice: VoiceFeatures) -> None:
    expected = joined(client, voice)
    for _ in range(3):
        chunks = client.stream("A long story. " * 10, voice, max_new_tokens=800)
        next(chunks)
        chunks.close()
    np.testing.assert_allclose(joined(client, voice), expected, atol=TOLERANCE, rtol=0)


def stranger(voice: VoiceFeatures) -> VoiceFeatures:
    return VoiceFeatures(voice.codes, voice.frames, voice.texts, "another checkpoint")


def impossible(voice: VoiceFeatures) -> VoiceFeatures:
    return VoiceFeatures(voice.codes + 9999, voice.frames, voice.texts, voice.checkpoint_id)


@pytest.mark.parametrize("door", ["stream", "synthesize"])
@pytest.mark.parametrize(
    ("text", "voice_of", "options", "message"),
    [
        (" ", lambda v: v, {}, "text is empty"),
        ("word " * 4000, lambda v: v, {}, "positions"),
        ("a", lambda v: v, {"temperature": 9}, "temperature is 9, expected 0 to 2"),
        ("a", lambda v: v, {"first_chunk_frames": 0}, "first_chunk_frames is 0, expected 1 to"),
        ("a", stranger, {}, "made by checkpoint another checkpoint"),
        ("a", impossible, {}, "in codebook 0"),
    ],
)
def test_what_cannot_be_spoken_is_explained(
    client: Client,
    voice: VoiceFeatures,
    door: str,
    text: str,
    voice_of: Callable[[VoiceFeatures], VoiceFeatures],
    options: dict,
    message: str,
) -> None:
    with pytest.raises(voicereel.InvalidRequest, match=message):
        if door == "stream":
            list(client.stream(text, voice_of(voice), **options))
        else:
            client.synthesize(text, voice_of(voice), **options)


def test_deadline(client: Client, voice: VoiceFeatures) -> None:
    with pytest.raises(voicereel.DeadlineExceeded):
        client.synthesize("A long story. " * 10, voice, timeout_s=0.01)


@pytest.mark.long
def test_those_who_give_up_leave_nothing_behind(repository: Path, voice: VoiceFeatures) -> None:
    """At any moment, by their deadline or on their own; a request in flight would delay the end."""

    def give_up(i: int) -> None:
        asked: Options = {**ASKED, "max_new_tokens": 400, "first_chunk_frames": 2}
        chunks = client.stream("A long story. " * 10, voice, timeout_s=0.02 + i % 10 / 50, **asked)
        with contextlib.suppress(voicereel.VoiceReelError):
            if i % 3 == 0:
                client.synthesize("A long story. " * 10, voice, timeout_s=0.001 + i % 7 / 100)
            elif i % 3 == 1:
                list(chunks)
            else:
                next(chunks)
        chunks.close()

    with Server(repository) as server:
        with Client(server.grpc_url, timeout_s=60) as client, ThreadPoolExecutor(4) as pool:
            list(pool.map(give_up, range(120)))
            assert client.synthesize(TEXT, voice, **ASKED).duration_s > 0
        assert server.running
        begin = time.monotonic()
    assert time.monotonic() - begin < EXIT_TIMEOUT_S


def python(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("unary", "hello.wav"),
        ("streaming", "streamed.wav"),
        ("raw_tritonclient", "raw.wav"),
        ("voicereel_app", "reel.wav"),
    ],
)
def test_examples_run(server: Server, tmp_path: Path, name: str, file: str) -> None:
    (tmp_path / "assets").symlink_to(PROJECT / "assets")
    python(PROJECT / "examples" / f"{name}.py", server.grpc_url, cwd=tmp_path)
    assert soundfile.info(tmp_path / file).frames > 2048


def test_command_line(server: Server, tmp_path: Path) -> None:
    shared = ("--url", server.grpc_url, "--json")
    python("-m", "voicereel", "ready", *shared, cwd=tmp_path)
    encode = ("voice", "encode", ALICE, "--text", WORDS, "-o", "alice.npz")
    python("-m", "voicereel", *encode, *shared, cwd=tmp_path)
    say = ("say", TEXT, "--voice", "alice.npz", "--stream", "-o", "out.ogg", "--seed", 5)
    spoken = json.loads(python("-m", "voicereel", *say, *shared, cwd=tmp_path))
    assert spoken["audio_s"] == pytest.approx(soundfile.info(tmp_path / "out.ogg").duration)


def test_demo(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "OUT", tmp_path)
    result = demo.write(*demo.speak(client))
    assert {k: result[k] for k in ("wav", "captions", "segments", "speakers")} == {
        "wav": "out/demo.wav",
        "captions": "out/demo.srt",
        "segments": 6,
        "speakers": 2,
    }
    info = soundfile.info(tmp_path / "demo.wav")
    assert result["audio_s"] == info.frames / info.samplerate
    captions = (tmp_path / "demo.srt").read_text().splitlines()
    ends = [line.split(" --> ")[1] for line in captions if "-->" in line]
    hours, minutes, seconds = ends[-1].replace(",", ".").split(":")
    assert int(hours) * 3600 + int(minutes) * 60 + float(seconds) == pytest.approx(
        info.duration, abs=0.0006
    )
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
