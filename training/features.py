"""The codec's latents, which are computed from the sound instead of being learnt.

A frame's latents are the log mel spectrum at four moments (rotated to its principal axes), pitch
and voicing, and the phase of the fundamental at four moments. So the codebooks can be fitted in
closed form, the transformers can learn from codes while the codec is still being trained, the
encoder has a target, and the decoder's input determines the waveform.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor

from training.device import DEVICE
from training.spectra import mel_filters
from training.speech import ESPEAK_RATE_HZ, SAMPLE_RATE_HZ, Corpus

FRAME = 1024  # samples at 22.05 kHz
SLICES = 4  # moments of a frame, 12 ms apart
_SLICE = FRAME // SLICES
_WINDOW = 768  # samples, for pitch and phase: 35 ms, two periods of 60 Hz
_MEL_WINDOW = 512  # samples: 23 ms
BANDS = 40  # mel bands up to 11 kHz
_FLOOR = 1e-4  # amplitude that counts as silence
_F0_RANGE_HZ = (65.0, 350.0)
_MIDDLE_HZ = 140.0  # pitch is coded relative to it
_FFT = 2048  # samples: at least a window and the longest lag, so that correlation does not wrap
_BATCH = 16 if DEVICE.type == "cpu" else 128  # utterances whose features are computed together

ENVELOPE = SLICES * BANDS  # values before rotation
PITCH = 4  # log F0 at the first and the last moment, voicing at the same two
PHASE = 2 * SLICES  # cosine and sine
# Columns of the latents that each subject has.
SUBJECTS = {"envelope": slice(0, 112), "pitch": slice(112, 116), "phase": slice(116, 124)}
# Subject of each of the ten codebooks; a codebook quantises the residual of those before it.
BOOKS = ("envelope", "pitch", "phase", "phase", *["envelope"] * 6)


def raw_features(waveform: np.ndarray, rate_hz: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features of one utterance; a frame depends on nothing after it, as in the causal encoder.

    Args:
        waveform: float32 (samples,), in [-1, 1].
        rate_hz: Sample rate, 22050.

    Returns:
        float32 (frames, 160), (frames, 4) and (frames, 8): envelope, pitch, phase.
    """
    frames = -(-len(waveform) // FRAME)
    sound = torch.zeros(_WINDOW + frames * FRAME)
    sound[_WINDOW : _WINDOW + len(waveform)] = torch.from_numpy(waveform)
    return (
        _envelope(sound, frames, rate_hz),
        *_pitch_and_phase(sound, frames, rate_hz),
    )


def _slices(sound: Tensor, frames: int, window: int) -> Tensor:
    """One window for each slice, which ends with it: (slices, window)."""
    return sound[_WINDOW - window + _SLICE :].unfold(0, window, _SLICE)[: frames * SLICES]


def _envelope(sound: Tensor, frames: int, rate_hz: int) -> Tensor:
    windows = _slices(sound, frames, _MEL_WINDOW) * torch.hann_window(_MEL_WINDOW)
    amplitude = torch.fft.rfft(windows).abs() * (2 / _MEL_WINDOW)
    mel = amplitude @ mel_filters(_MEL_WINDOW, BANDS, rate_hz).T
    return mel.clamp(min=_FLOOR).log().view(frames, ENVELOPE)


def _pitch_and_phase(sound: Tensor, frames: int, rate_hz: int) -> tuple[Tensor, Tensor]:
    shape = torch.hann_window(_WINDOW)
    windows = _slices(sound, frames, _WINDOW)
    windows = (windows - windows.mean(1, keepdim=True)) * shape
    f0, voicing = _f0(windows, shape, rate_hz)
    # Correlating with a turning phasor gives the phase of the fundamental at the window's middle.
    time = torch.arange(_WINDOW) - _WINDOW // 2
    turning = torch.exp(-2j * torch.pi * f0[:, None] / rate_hz * time)
    phase = torch.view_as_real((windows * turning).sum(1))
    phase = phase / phase.norm(dim=1, keepdim=True).clamp(min=1e-9) * voicing[:, None]
    tone = ((f0 / _MIDDLE_HZ).log() * voicing).view(frames, SLICES)
    voiced = voicing.view(frames, SLICES)
    pitch = torch.stack([tone[:, 0], tone[:, -1], voiced[:, 0], voiced[:, -1]], 1)
    return pitch, phase.reshape(frames, PHASE)


def _f0(windows: Tensor, shape: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """Pitch in Hz and voicing from 0 to 1 by normalised autocorrelation, float32 (slices,).

    Source: Boersma 1993, without the path finder.
    """
    low, high = int(rate_hz / _F0_RANGE_HZ[1]), int(rate_hz / _F0_RANGE_HZ[0]) + 1

    def correlation(x: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(x, _FFT).abs().square())[..., : high + 1]

    own = correlation(shape)
    found = correlation(windows)
    energy = found[:, :1].clamp(min=1e-9)
    ratio = (found / energy) / (own / own[0])
    lags = torch.arange(high + 1)
    score = ratio - 0.04 * (lags.clamp(min=1) / low).log2()
    score[:, :low] = -1
    inner = score[:, low:high]
    peaks = (inner >= score[:, low - 1 : high - 1]) & (inner >= score[:, low + 1 : high + 1])
    best = torch.where(peaks, inner, -1.0).argmax(1) + low
    around = ratio.gather(1, best[:, None] + torch.tensor([-1, 0, 1]))
    a, b, c = around.T
    shift = (0.5 * (a - c) / (a - 2 * b + c).clamp(max=-1e-6)).clamp(-0.5, 0.5)
    f0 = rate_hz / (best + shift)
    loud = (energy[:, 0] / len(shape)).sqrt() > 2e-3
    voicing = ((b - 0.5) / 0.3).clamp(0, 1) * loud
    return f0, voicing


def median_f0_hz(waveform: np.ndarray) -> float:
    """Median pitch of the voiced moments of float32 (samples,) at 44.1 kHz; nan without any."""
    _, pitch, _ = raw_features(
        soxr.resample(waveform, SAMPLE_RATE_HZ, ESPEAK_RATE_HZ), ESPEAK_RATE_HZ
    )
    return float((_MIDDLE_HZ * pitch[pitch[:, 3] == 1, 1].exp()).median())


@dataclass(frozen=True)
class Latents:
    """The latents of the whole corpus.

    Attributes:
        values: float32 (frames, latents): envelope, pitch, phase, zeros up to the codec's width.
        starts: First frame of each utterance in `values`, and the number of frames.
    """

    values: Tensor
    starts: list[int]

    def of(self, index: int) -> Tensor:
        """Latents of one utterance, float32 (frames, latents)."""
        return self.values[self.starts[index] : self.starts[index + 1]]


def corpus_latents(corpus: Corpus, width: int, folder: Path) -> Latents:
    """Latents of the corpus, computed once: 5 minutes on two cores, 10 s on a GPU."""
    path = folder / "latents.pt"
    if not path.is_file():
        spoken = [
            corpus.utterances[i : i + _BATCH] for i in range(0, len(corpus.utterances), _BATCH)
        ]
        raw = [features_of([corpus.spoken(u) for u in some]) for some in track(spoken, "latents")]
        envelope, pitch, phase = (torch.cat(parts) for parts in zip(*raw, strict=True))
        parts = [
            rotated(envelope, SUBJECTS["envelope"].stop),
            levelled(pitch),
            phase - phase.mean(0),
        ]
        values = torch.cat(parts, dim=1)
        values = F.pad(values, (0, width - values.shape[1]))
        starts = np.cumsum([0, *(-(-u.length // FRAME) for u in corpus.utterances)]).tolist()
        torch.save({"values": values.half(), "starts": starts}, path)
    stored = torch.load(path)
    return Latents(stored["values"].float(), stored["starts"])


def features_of(waveforms: list[np.ndarray]) -> list[Tensor]:
    """Features of several utterances in a row, separated by a silent frame before each."""
    silence, parts, speech = np.zeros(FRAME, np.float32), [], []
    for waveform in waveforms:
        parts += [silence, waveform, silence[: -len(waveform) % FRAME]]
        speech += [False, *[True] * -(-len(waveform) // FRAME)]
    with DEVICE:
        found = raw_features(np.concatenate(parts), ESPEAK_RATE_HZ)
    return [values.cpu()[torch.tensor(speech)] for values in found]


def rotated(envelopes: Tensor, kept: int) -> Tensor:
    """Coordinates along the first principal axes, scaled so that the first has deviation 1."""
    centred = envelopes - envelopes.mean(0)
    variances, axes = torch.linalg.eigh(centred.T.cov())
    return centred @ axes.flip(1)[:, :kept] / variances[-1].sqrt()


def levelled(values: Tensor) -> Tensor:
    """Values with mean 0 and deviation 1 in each column."""
    return (values - values.mean(0)) / values.std(0)
