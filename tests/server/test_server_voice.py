"""The demo voice through a real server: the words and the voice that were asked for are heard."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.server]

from benchmarks.demo import run as demo
from benchmarks.prepared import prepared
from benchmarks.quality.recogniser import Recogniser
from benchmarks.quality.voice_measures import word_errors
from ensemble.contract.settings import ROUNDINGS
from launch.server import Server
from support.engine import needs_int8
from training.features import median_f0_hz
from training.sentences import jsgf, read_rules, words
from voicereel import Audio, Client, synthesize_script
from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording

SENTENCES = (
    *(text for _, text in demo.SCRIPT),
    "The farmer sold the purple bicycle before lunch.",
    "Helen has travelled for three months without a break.",
)


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(jsgf(read_rules()))


def stream(client: Client, text: str, voice, **options) -> Audio:
    chunks = list(client.stream(text, voice, **options))
    waveform = np.concatenate([chunk.waveform for chunk in chunks])
    return Audio(waveform, chunks[-1].sample_rate_hz, chunks[-1].finish_reason)


# In one chunk and a batch, in the default precision; with rounded weights a quarter of the
# sentences, in chunks and one by one.
@pytest.mark.parametrize(
    ("preset", "precision", "streamed", "sentences"),
    [
        ("demo", "half", False, SENTENCES),
        pytest.param("s2-demo", "half", False, SENTENCES, marks=pytest.mark.long),
        *(
            pytest.param(
                "demo", rounding, True, SENTENCES[::4], marks=[needs_int8, pytest.mark.long]
            )
            for rounding in ROUNDINGS
        ),
    ],
    ids=["half", "S2", *ROUNDINGS],
)
def test_it_says_the_words_in_the_voice(recogniser, preset, precision, streamed, sentences) -> None:
    repository = prepared(preset, preset)[1]
    with (
        Server(repository, environment={"FISH_SPEECH_PRECISION": precision}) as at,
        Client(at.grpc_url, timeout_s=120) as client,
    ):
        voices = {
            name: client.encode_voice(demo.VOICES / f"{name.lower()}.flac", spoken)
            for name, spoken in demo.WORDS.items()
        }
        pairs = [(text, name) for name in voices for text in sentences]

        def say(number: int) -> Audio:
            text, name = pairs[number]
            how = stream if streamed else Client.synthesize
            return how(client, text, voices[name], seed=number, max_new_tokens=demo.MAX_FRAMES)

        with ThreadPoolExecutor(1 if streamed else 8) as pool:
            audios = list(pool.map(say, range(len(pairs))))
    assert sum(audio.finish_reason != "stop" for audio in audios) <= 1
    errors = sum(
        word_errors(words(text), recogniser.words(audio.waveform, CODEC_SAMPLE_RATE_HZ))
        for (text, _), audio in zip(pairs, audios, strict=True)
    )
    # 0.2 of 100 held-out sentences; 16 leave a good deal to chance.
    assert errors / sum(len(words(text).split()) for text, _ in pairs) < 0.35
    for name in voices:
        reference = read_recording(demo.VOICES / f"{name.lower()}.flac")
        spoken = np.concatenate(
            [a.waveform for (_, n), a in zip(pairs, audios, strict=True) if n == name]
        )
        assert median_f0_hz(spoken) == pytest.approx(median_f0_hz(reference), rel=0.1)


PROJECT = Path(__file__).resolve().parents[2]
TOLD = [  # whatever tells a reader what to let the demo say
    PROJECT / "README.md", *PROJECT.glob("docs/*.md"), *PROJECT.glob("examples/*.py"),
    PROJECT / "client/voicereel/script/files.py",
]  # fmt: skip
TWO = "Did the captain find the guitar last night? The enormous elephant is behind the hospital."


def example_texts() -> list[str]:
    """Every text that the pages and examples speak."""
    said = re.compile(
        r'(?:synthesize\(|stream\(|\bsay |"input": |\btext"?(?:: *| = ))"([^"]+)"|'
        r'\btext: ([^"{},<>]+)[,}]'
    )
    found = [m[1] or m[2] for path in TOLD for m in said.finditer(path.read_text("utf-8"))]
    return sorted({text.strip() for text in found if re.match(r"[A-Z].*[.?!]$", text)})


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Server(prepared("demo", "demo")[1]) as at, Client(at.grpc_url, timeout_s=120) as client:
        yield client


@pytest.fixture(scope="module")
def alice(client: Client):
    return client.encode_voice(demo.VOICES / "alice.flac", demo.WORDS["Alice"])


def test_the_examples_are_what_the_demo_can_say(client, alice) -> None:
    texts = example_texts()
    assert len(texts) >= 3 and "Good morning, Bob. Did you sleep well?" in texts
    for text in texts:
        for voice in (None, alice):
            audio = client.synthesize(text, voice, seed=7, temperature=0.9)
            assert (audio.finish_reason, audio.warnings) == ("stop", ()), text
            assert audio.waveform.std() > 0.03, f"{text} is silent"


def test_two_sentences_are_both_said_on_every_path(client, alice, recogniser) -> None:
    grammar = Recogniser(jsgf(read_rules(), several=True))
    paths = {
        "whole": client.synthesize(TWO, alice, seed=7),
        "streamed": stream(client, TWO, alice, seed=7),
        "script": synthesize_script(
            client, [{"speaker_id": "A", "text": TWO}], {"A": alice}, seed=7
        ).audio,
    }
    for name, audio in paths.items():
        assert 4.5 < audio.duration_s < 6.5, name
        np.testing.assert_allclose(audio.waveform, paths["whole"].waveform, atol=1e-4)
    heard = grammar.words(paths["whole"].waveform, CODEC_SAMPLE_RATE_HZ)
    assert word_errors(words(TWO), heard) <= 3, heard


def test_a_soft_recording_and_one_with_silence_give_the_same_person(
    client, alice, tmp_path
) -> None:
    recording = read_recording(demo.VOICES / "alice.flac")
    room = np.random.default_rng(0).normal(0, recording.std() / 100, len(recording) + 8 * 44_100)
    room[4 * 44_100 : 4 * 44_100 + len(recording)] += recording
    for name, samples in {"soft": recording / 32, "room": room}.items():  # -30 dB; 40 dB below
        Audio(samples.astype(np.float32), 44_100, "stop").save(tmp_path / f"{name}.flac")
        voice = client.encode_voice(tmp_path / f"{name}.flac", demo.WORDS["Alice"])
        assert sum(alice.frames) <= sum(voice.frames) <= sum(alice.frames) + 12
        spoken = np.concatenate(
            [client.synthesize(t, voice, seed=i).waveform for i, t in enumerate(SENTENCES[:4])]
        )
        assert median_f0_hz(spoken) == pytest.approx(median_f0_hz(recording), rel=0.1), name
