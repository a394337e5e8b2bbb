"""The demo voice through a real server: the words and the voice that were asked for are heard."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.server]

from benchmarks.demo import run as demo
from benchmarks.prepared import prepared
from benchmarks.quality.recogniser import Recogniser
from benchmarks.quality.voice_measures import word_errors
from launch.server import Server
from training.features import median_f0_hz
from training.sentences import jsgf, read_rules, words
from voicereel import Audio, Client
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


needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="int8 is for CPUs with VNNI"
)


# In one chunk and a batch, in the default precision; in chunks and one by one, with int8 weights.
@pytest.mark.parametrize(
    ("precision", "streamed"),
    [("half", False), pytest.param("int8", True, marks=needs_vnni)],
)
def test_it_says_the_words_in_the_voice(recogniser, precision, streamed) -> None:
    with (
        Server(prepared("demo", "demo")[1], environment={"FISH_SPEECH_PRECISION": precision}) as at,
        Client(at.grpc_url, timeout_s=120) as client,
    ):
        voices = {
            name: client.encode_voice(demo.VOICES / f"{name.lower()}.flac", spoken)
            for name, spoken in demo.WORDS.items()
        }
        pairs = [(text, name) for name in voices for text in SENTENCES]

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
