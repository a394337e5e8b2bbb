"""Word errors, pitch, and the mel-cepstral distance of two renderings of a sentence."""

import math
from typing import Any

import numpy as np
import torch

from training.spectra import MelSpectrogram

_WINDOW, _BANDS, _CEPSTRA = 2048, 40, 13  # samples (46 ms at 44.1 kHz), mel bands, coefficients
_FLOOR = 1e-5  # amplitude that counts as silence
_LEVEL = 0.1  # rms that every waveform is brought to


def word_errors(true: str, heard: str) -> int:
    """Number of words to substitute, insert or delete (Levenshtein distance)."""
    wanted, found = true.split(), heard.split()
    row = list(range(len(found) + 1))
    for i, word in enumerate(wanted, 1):
        above, row = row, [i]
        for j, other in enumerate(found, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (word != other)))
    return row[-1]


def median_f0_hz(waveform: np.ndarray, rate_hz: int) -> float:
    """Median pitch of the voiced parts by Praat's own algorithm; nan without voiced parts."""
    import parselmouth  # pyright: ignore[reportMissingImports]

    pitch: Any = parselmouth.Sound(waveform.astype(np.float64), rate_hz).to_pitch()
    frequencies = pitch.selected_array["frequency"]
    voiced = frequencies[frequencies > 0]
    return float(np.median(voiced)) if len(voiced) else math.nan


def mel_cepstra(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Mel cepstra without loudness, float64 (frames, 13), 86 frames a second at 44.1 kHz."""
    spectrogram = MelSpectrogram(_WINDOW, _BANDS, rate_hz)
    levelled = waveform * (_LEVEL / max(float(np.sqrt(np.mean(waveform**2))), 1e-9))
    amplitudes = spectrogram(torch.from_numpy(levelled)[None])[0].double()
    logarithms = amplitudes.clamp(min=_FLOOR).log().numpy()
    order = np.arange(1, _CEPSTRA + 1)[:, None]
    cosines = np.cos(np.pi / _BANDS * (np.arange(_BANDS) + 0.5) * order)
    return (cosines @ logarithms).T * math.sqrt(2 / _BANDS)


def cepstral_distance_db(one: np.ndarray, other: np.ndarray) -> float:
    """Mel-cepstral distance of two `mel_cepstra`, aligned by dynamic time warping.

    Source: 10 / ln 10 sqrt(2 sum d^2), Kubichek 1993; symmetric steps, normalised by both
    lengths, Sakoe and Chiba 1978.
    """
    square = ((one[:, None] - other[None]) ** 2).sum(2)
    costs = (10 / math.log(10) * np.sqrt(2 * square)).tolist()
    row = [math.inf] * (len(other) + 1)
    row[0] = 0.0
    for line in costs:
        above, row = row, [math.inf]
        for j, cost in enumerate(line):
            row.append(min(above[j] + 2 * cost, above[j + 1] + cost, row[j] + cost))
    return row[-1] / (len(one) + len(other))
