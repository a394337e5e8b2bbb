"""The demo voice through the gateway: the words are heard in every format."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("fish_speech")
pytestmark = [pytest.mark.torch, pytest.mark.server]

from benchmarks.demo import run as demo
from benchmarks.demo.up import ALIASES, MODELS, aliases
from benchmarks.prepared import prepared
from benchmarks.quality.recogniser import Recogniser
from benchmarks.quality.voice_measures import word_errors
from gateway.formats import FORMATS
from gateway.settings import read_settings
from launch.server import Server
from support.gateway import Gateway, running
from training.sentences import jsgf, read_rules, words
from voicereel import Client
from voicereel.library import VoiceLibrary

RATE_HZ = 24_000


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """As `make up` has it."""
    folder = tmp_path_factory.mktemp("up")
    with Server(prepared("demo", "demo")[1]) as server:
        with Client(server.grpc_url, timeout_s=120) as client:
            for name, voice in demo.encoded(client).items():
                VoiceLibrary(folder).add(name, voice)
        names = aliases(folder / "aliases.yaml")
        with running(server.grpc_url, folder, VOICEREEL_GATEWAY_ALIASES=names) as gateway:
            yield gateway


def decoded(format: str, data: bytes) -> np.ndarray:
    """float32 (samples,) at 24 kHz, by FFmpeg's libraries."""
    if format == "pcm":
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768
    to = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    with av.open(io.BytesIO(data)) as container:
        frames = [new for frame in container.decode(audio=0) for new in to.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def test_the_words_are_heard_in_every_format(shared: Gateway) -> None:
    recogniser = Recogniser(jsgf(read_rules()))
    jobs = [(name, text, format) for format in FORMATS for name, text in demo.SCRIPT[:2]]

    def say(job: tuple[str, str, str]) -> np.ndarray:
        name, text, format = job
        alias = ALIASES[("Alice", "Bob").index(name)]  # as an app that knows OpenAI's voices
        answer = shared.speak(input=text, voice=alias, response_format=format, seed=demo.SEED)
        assert answer.status_code == 200, answer.text
        return decoded(format, answer.content)

    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(say, jobs))
    for format in FORMATS:
        of_format = [(job[1], audio) for job, audio in zip(jobs, heard, strict=True)
                     if job[2] == format]  # fmt: skip
        errors = sum(word_errors(words(text), recogniser.words(audio, RATE_HZ))
                     for text, audio in of_format)  # fmt: skip
        assert errors / sum(len(words(text).split()) for text, _ in of_format) < 0.35, format


def test_the_aliases_of_make_up_are_all_that_the_gateway_has(tmp_path: Path) -> None:
    default = read_settings().aliases
    assert set(ALIASES) == default.voices.keys() and list(MODELS) == default.models
    assert read_settings(VOICEREEL_GATEWAY_ALIASES=aliases(tmp_path / "a.yaml")).aliases
