"""What the codec's latents mean: they are computed, not found by training.

A frame's latents are the log mel spectrum at four moments (rotated to its principal axes), pitch
and voicing, and the phase of the fundamental at four moments. So the codebooks can be fitted in
closed form, the transformers can learn from codes while the codec is still learning, the encoder
has a target and the decoder knows all that it needs to make the very waveform.
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
SLICES = 4
_SLICE = FRAME // SLICES
_WINDOW = 768  # of pitch and phase: 35 ms, two periods of 60 Hz
_MEL_WINDOW = 512
BANDS = 40
_FLOOR = 1e-4
_F0_RANGE_HZ = (65.0, 350.0)
_MIDDLE_HZ = 140.0
_FFT = 2048
_TOGETHER = 16 if DEVICE.type == "cpu" else 128  # utterances

ENVELOPE = SLICES * BANDS  # values, before rotation
PITCH = 4  # log F0 at the first and last moment, voicing likewise
PHASE = 2 * SLICES
# Where each lies among the latents.
SUBJECTS = {"envelope": slice(0, 112), "pitch": slice(112, 116), "phase": slice(116, 124)}
# What each of the ten codebooks is about, each taking what those before it left.
BOOKS = ("envelope", "pitch", "phase", "phase", *["envelope"] * 6)


def raw_features(waveform: np.ndarray, rate_hz: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of one utterance, from nothing behind the end of each frame: the encoder is causal.

    Args:
        waveform: float32 (samples,), full scale 1.
        rate_hz: 22050.

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
    """The windows that end where each slice ends, (slices, window)."""
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
    # The fundamental at the window's middle.
    time = torch.arange(_WINDOW) - _WINDOW // 2
    turning = torch.exp(-2j * torch.pi * f0[:, None] / rate_hz * time)
    phase = torch.view_as_real((windows * turning).sum(1))
    phase = phase / phase.norm(dim=1, keepdim=True).clamp(min=1e-9) * voicing[:, None]
    tone = ((f0 / _MIDDLE_HZ).log() * voicing).view(frames, SLICES)
    voiced = voicing.view(frames, SLICES)
    pitch = torch.stack([tone[:, 0], tone[:, -1], voiced[:, 0], voiced[:, -1]], 1)
    return pitch, phase.reshape(frames, PHASE)


def _f0(windows: Tensor, shape: Tensor, rate_hz: int) -> tuple[Tensor, Tensor]:
    """By autocorrelation, divided by the window's own: Hz and voicing, float32 (slices,).

    Source: Boersma 1993, without his path finding.
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
    """Of the voiced moments of float32 (samples,), 44.1 kHz; nan if there are none."""
    _, pitch, _ = raw_features(
        soxr.resample(waveform, SAMPLE_RATE_HZ, ESPEAK_RATE_HZ), ESPEAK_RATE_HZ
    )
    return float((_MIDDLE_HZ * pitch[pitch[:, 3] == 1, 1].exp()).median())


@dataclass(frozen=True)
class Latents:
    """Those of the whole corpus.

    Attributes:
        values: float32 (frames, latents): envelope, pitch, phase, zeros up to the codec's width.
        starts: Where each utterance begins in it, and the end.
    """

    values: Tensor
    starts: list[int]

    def of(self, index: int) -> Tensor:
        """float32 (frames, latents), of an utterance."""
        return self.values[self.starts[index] : self.starts[index + 1]]


def corpus_latents(corpus: Corpus, width: int, folder: Path) -> Latents:
    """Computed once: two minutes for five hours, or some seconds on a GPU."""
    path = folder / "latents.pt"
    if not path.is_file():
        spoken = [
            corpus.utterances[i : i + _TOGETHER]
            for i in range(0, len(corpus.utterances), _TOGETHER)
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
    """Of several utterances in a row, kept apart by a silent frame before each."""
    silence, parts, speech = np.zeros(FRAME, np.float32), [], []
    for waveform in waveforms:
        parts += [silence, waveform, silence[: -len(waveform) % FRAME]]
        speech += [False, *[True] * -(-len(waveform) // FRAME)]
    with DEVICE:
        found = raw_features(np.concatenate(parts), ESPEAK_RATE_HZ)
    return [values.cpu()[torch.tensor(speech)] for values in found]


def rotated(envelopes: Tensor, kept: int) -> Tensor:
    """Coordinates along the first principal axes; the largest has deviation 1."""
    centred = envelopes - envelopes.mean(0)
    variances, axes = torch.linalg.eigh(centred.T.cov())
    return centred @ axes.flip(1)[:, :kept] / variances[-1].sqrt()


def levelled(values: Tensor) -> Tensor:
    """Mean 0 and deviation 1 of each."""
    return (values - values.mean(0)) / values.std(0)
