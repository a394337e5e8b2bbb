"""Measures of a way to say all sentences: word errors, distance of the sound, pitch."""

import math
from dataclasses import dataclass

import numpy as np

from benchmarks.quality.recogniser import Recogniser
from benchmarks.quality.speech import Sentence, voices
from benchmarks.quality.voice_measures import (
    cepstral_distance_db,
    median_f0_hz,
    mel_cepstra,
    word_errors,
)
from training.sentences import words
from training.speech import SAMPLE_RATE_HZ


@dataclass(frozen=True)
class Measures:
    """Word errors over words, and mean mel-cepstral distance to espeak-ng in dB."""

    wer: float
    cepstral_db: float


def measured(
    recogniser: Recogniser, lines: list[Sentence], waveforms: list[np.ndarray], shift: int = 0
) -> Measures:
    """Compare waveforms with the sentences that they say.

    Args:
        recogniser: Hears the words.
        lines: The sentences.
        waveforms: float32 (samples,) at 44.1 kHz, one for each.
        shift: Above 0, sounds are compared with those of other sentences of the same voice.
    """
    errors = count = 0
    distances = []
    for number, (line, waveform) in enumerate(zip(lines, waveforms, strict=True)):
        true = words(line.text)
        errors += word_errors(true, recogniser.words(waveform, SAMPLE_RATE_HZ))
        count += len(true.split())
        # Sentences take the voices in turns, so this one is of the same voice.
        other = lines[(number + shift * len(voices())) % len(lines)].true
        pair = (mel_cepstra(w, SAMPLE_RATE_HZ) for w in (waveform, other))
        distances.append(cepstral_distance_db(*pair))
    return Measures(errors / count, float(np.mean(distances)))


def f0_errors(lines: list[Sentence], references: list[Sentence], made: list[np.ndarray]) -> dict:
    """Relative error of each voice's median pitch against its reference's."""
    found = {}
    for reference in references:
        own = [m for m, line in zip(made, lines, strict=True) if line.variant == reference.variant]
        wanted, got = (
            median_f0_hz(w, SAMPLE_RATE_HZ) for w in (reference.true, np.concatenate(own))
        )
        # Without any voiced sound there is no pitch, which counts as an error of 100 %.
        found[reference.variant] = 1.0 if math.isnan(got) else abs(got / wanted - 1)
    return found
