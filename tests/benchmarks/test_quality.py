"""The measures of `make quality`, on sounds whose answer is known."""

import math
import shutil

import numpy as np
import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from benchmarks.quality import voice_measures as measures

RATE_HZ = 44100


def tone(hz: float, seconds: float = 0.5) -> np.ndarray:
    """A hum rich in harmonics."""
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return sum(np.sin(2 * np.pi * hz * n * time) / n for n in range(1, 12)).astype(np.float32) / 4


@pytest.mark.parametrize(
    ("true", "heard", "errors"),
    [
        ("the red door", "the red door", 0),
        ("the red door", "the door", 1),
        ("the red door", "the old red doors", 2),
        ("the red door", "", 3),
    ],
)
def test_word_errors(true, heard, errors) -> None:
    assert measures.word_errors(true, heard) == errors


def test_pitch() -> None:
    pytest.importorskip("parselmouth", reason="training/requirements.txt is not installed")
    assert measures.median_f0_hz(tone(140), RATE_HZ) == pytest.approx(140, rel=0.01)
    assert math.isnan(measures.median_f0_hz(np.zeros(RATE_HZ, np.float32), RATE_HZ))


def test_cepstral_distance_forgives_tempo_and_loudness_not_sound() -> None:
    hiss = np.random.default_rng(0).standard_normal(RATE_HZ // 4).astype(np.float32) * 0.1
    word = np.concatenate([tone(140, 0.3), hiss])
    slow, other = np.concatenate([tone(140, 0.6), hiss]), np.concatenate([hiss, tone(140, 0.3)])
    cepstra = [measures.mel_cepstra(w, RATE_HZ) for w in (word, slow, 0.5 * word, other)]
    same, slower, quieter, wrong = (measures.cepstral_distance_db(cepstra[0], c) for c in cepstra)
    assert same == 0
    assert quieter < 0.5
    assert max(slower, quieter) < wrong / 3


@pytest.fixture
def line():
    if not shutil.which("espeak-ng"):
        pytest.skip("espeak-ng is not installed")
    from benchmarks.quality.speech import Sentence, spoken

    text = "The clever elephant is under the castle."
    return Sentence(text, "en-us+f3", spoken(text, "en-us+f3"))


def test_the_recogniser_understands_espeak(line) -> None:
    from benchmarks.quality.measures import measured
    from benchmarks.quality.recogniser import Recogniser
    from training.sentences import jsgf, read_rules

    recogniser = Recogniser(jsgf(read_rules()))
    assert recogniser.words(np.zeros(RATE_HZ, np.float32), RATE_HZ) == ""
    assert measured(recogniser, [line], [line.true]).wer == 0


def test_a_voice_has_its_own_pitch(line) -> None:
    pytest.importorskip("parselmouth", reason="training/requirements.txt is not installed")
    from benchmarks.quality.measures import f0_errors

    assert f0_errors([line], [line], [line.true]) == {"en-us+f3": 0.0}


def test_joined_sentences_are_drawn_and_understood(monkeypatch) -> None:
    from benchmarks.quality import speech
    from training.sentences import sentences

    monkeypatch.setattr(speech, "spoken", lambda text, variant: np.zeros(0))
    drawn = [text for text, _ in zip(sentences(20, held_out=True), range(12), strict=False)]
    pairs = speech.held_out_sentences(4, begin=4, joined=2)
    assert [pair.text for pair in pairs] == [" ".join(drawn[i : i + 2]) for i in (4, 6, 8, 10)]
    assert [pair.variant for pair in pairs] == list(speech.voices())
    assert [line.text for line in speech.held_out_sentences(3)] == drawn[:3]


@pytest.mark.slow
def test_the_recogniser_understands_several_sentences(line) -> None:
    from benchmarks.quality.recogniser import Recogniser
    from training.sentences import jsgf, read_rules, words

    recogniser = Recogniser(jsgf(read_rules(), several=True))
    twice = np.concatenate([line.true, line.true])
    assert recogniser.words(twice, RATE_HZ) == f"{words(line.text)} {words(line.text)}"
    assert recogniser.words(line.true, RATE_HZ) == words(line.text)
