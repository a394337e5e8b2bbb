"""The engine of this process, optimized and regular, on one real checkpoint."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")

from benchmarks.demo import run as demo
from launch.server import Server
from voicereel import Client, InvalidRequest, Options, VoiceFeatures
from voicereel.engine import Engine
from voicereel.fish_speech_regular import RegularSpeaker
from voicereel.settings import read_settings

pytestmark = [pytest.mark.server, pytest.mark.torch]

ALICE = demo.VOICES / "alice.flac"
WORDS = demo.WORDS["Alice"]
GREEDY: Options = {"temperature": 0, "repetition_penalty": 1.0, "max_new_tokens": 20}
SCRIPT = [
    {"speaker_id": "Alice", "text": "Good morning, Bob."},
    {"speaker_id": "Bob", "text": "Is it?"},
]


@pytest.fixture(scope="module")
def regular(tiny_checkpoint: Path) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two of them wait for each other beside a server
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FISH_SPEECH_PRECISION", "full")
        yield Engine(RegularSpeaker(tiny_checkpoint), read_settings())
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def optimized(repository: Path) -> Iterator[Engine]:
    """On a server in float32, as the regular one: in bfloat16 greedy choices differ."""
    with (
        Server(repository, environment={"FISH_SPEECH_PRECISION": "full"}) as server,
        Client(server.grpc_url, timeout_s=60) as client,
    ):
        yield Engine(client, read_settings())


@pytest.fixture(scope="module")
def alice(optimized: Engine) -> VoiceFeatures:
    return optimized.extract_speaker_features_fast(audio_path=ALICE, reference_text=WORDS)


def test_both_hear_the_same(regular: Engine, alice: VoiceFeatures) -> None:
    heard = regular.extract_speaker_features_fast(audio_path=ALICE, reference_text=WORDS)
    assert heard.sha256 == alice.sha256


@pytest.mark.parametrize(("use_chunking", "chunk_size"), [(True, 0.7), (True, 2), (False, 2)])
def test_features_do_not_depend_on_the_chunks(
    optimized: Engine, alice: VoiceFeatures, use_chunking: bool, chunk_size: float
) -> None:
    features = optimized.extract_speaker_features_fast(
        audio_path=ALICE, reference_text=WORDS, use_chunking=use_chunking, chunk_size=chunk_size
    )
    assert features.sha256 == alice.sha256


def test_recordings_that_no_prompt_can_hold(
    regular: Engine, optimized: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "long.flac"
    soundfile.write(path, np.zeros(100 * 44_100, np.float32), 44_100)
    for engine in (regular, optimized):
        with pytest.raises(InvalidRequest, match=r"lasts 100\.0 s, expected at most 95\.1 s"):
            engine.extract_speaker_features_fast(path, WORDS, use_chunking=True, chunk_size=3)


def test_what_holds_no_voice_or_no_words(
    regular: Engine, optimized: Engine, alice: VoiceFeatures, tmp_path: Path
) -> None:
    silent, soft = tmp_path / "silent.wav", tmp_path / "soft.wav"
    soundfile.write(silent, np.zeros(3 * 44_100, np.float32), 44_100)
    soundfile.write(soft, soundfile.read(ALICE)[0] / 32, 44_100, "FLOAT")  # -30 dB
    found = []
    for engine in (regular, optimized):
        with pytest.raises(InvalidRequest, match="reference_audio is silent"):
            engine.extract_speaker_features_fast(silent, WORDS)
        with pytest.raises(InvalidRequest, match=r"is '\.\.\.', which has no letter or digit"):
            engine.extract_speaker_features_fast(ALICE, "...")
        found.append(engine.extract_speaker_features_fast(soft, WORDS))
    np.testing.assert_array_equal(found[0].codes, found[1].codes)
    assert (found[0].codes == alice.codes).mean() > 0.8


@pytest.mark.parametrize("recordings", [0, 1, 2])
def test_both_say_the_same(
    regular: Engine, optimized: Engine, alice: VoiceFeatures, recordings: int
) -> None:
    voice = {0: None, 1: alice, 2: alice + alice}[recordings]
    voices = {"Alice": voice, "Bob": None}
    audio, captions = optimized.synthesize_speech_optimized(SCRIPT, voices, **GREEDY)
    expected, expected_captions = regular.synthesize_speech_optimized(SCRIPT, voices, **GREEDY)
    assert captions == expected_captions
    assert audio.finish_reason == expected.finish_reason
    np.testing.assert_allclose(audio, expected, atol=1e-4)


def test_the_regular_engine_samples_by_seed_and_checks_its_input(
    regular: Engine, alice: VoiceFeatures
) -> None:
    def speak(seed: int) -> np.ndarray:
        options: Options = {"seed": seed, "max_new_tokens": 5}
        return regular.synthesize_speech_optimized(SCRIPT, voices, **options).audio.waveform

    voices = {"Alice": alice, "Bob": None}
    first = speak(1)
    assert len(first) <= 2 * 5 * 2048
    np.testing.assert_array_equal(speak(1), first)
    assert not np.array_equal(speak(2)[:2048], first[:2048])
    stranger = VoiceFeatures(alice.codes, alice.frames, alice.texts, "another")
    with pytest.raises(InvalidRequest, match="made by checkpoint another, this is"):
        regular.synthesize_speech_optimized(SCRIPT, {"Alice": stranger, "Bob": None})
    with pytest.raises(InvalidRequest, match=r"segment 1 of 2 .*temperature is 9, expected 0 to 2"):
        regular.synthesize_speech_optimized(SCRIPT, voices, temperature=9)
