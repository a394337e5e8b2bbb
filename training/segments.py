"""Random segments of the corpus, cut on the device that the codec is trained on."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from training.device import DEVICE
from training.features import FRAME, Latents
from training.speech import Corpus, at_44100_hz

_REACH = 96  # samples at 22.05 kHz, to either side, that the resampling filter covers


class Segments:
    """Segments by step. A step always draws the same ones, so no state needs saving."""

    def __init__(self, corpus: Corpus, latents: Latents, batch: int, frames: int) -> None:
        self.batch, self.frames = batch, frames
        self._samples = torch.from_numpy(corpus.samples).to(DEVICE)
        self._latents = latents.values.to(DEVICE)
        self._sounds = [(u.start, u.start + u.length) for u in corpus.utterances]
        self._starts = latents.starts
        self._filters = upsampling_filters().to(DEVICE)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Waveforms, float32 (batch, 1, samples), and latents, (batch, latents, frames)."""
        chance = np.random.default_rng((7, step))
        drawn = torch.tensor([self._draw(chance) for _ in range(self.batch)])
        first, begin, end, row, last = drawn.to(DEVICE).T[:, :, None]
        length = self.frames * FRAME
        at = first * FRAME + torch.arange(-_REACH, length + _REACH, device=DEVICE) + begin
        sound = _picked(self._samples, at, (at >= begin) & (at < end)) / 32768
        rows = row + first + torch.arange(self.frames, device=DEVICE)
        latents = _picked(self._latents, rows, rows < last)
        return upsampled(sound, self._filters)[:, None], latents.transpose(1, 2)

    def _draw(self, chance: np.random.Generator) -> tuple[int, ...]:
        index = int(chance.integers(len(self._sounds)))
        row, last = self._starts[index : index + 2]
        first = int(chance.integers(max(1, last - row - self.frames + 1)))
        return first, *self._sounds[index], row, last


def _picked(values: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """Rows of `values` as float32, zero where `inside` is False."""
    found = values[rows.clamp(0, len(values) - 1)]
    return found * inside.view(*inside.shape, *[1] * (found.ndim - 2)).float()


def upsampling_filters() -> Tensor:
    """Filters of `at_44100_hz` for even and odd samples, from its impulse response.

    Returns:
        float32 (2, 1, taps).
    """
    impulse = np.zeros(4 * _REACH + 4, np.int16)
    impulse[len(impulse) // 2] = 2**14
    answer = 2 * at_44100_hz(impulse)
    phases = [answer[len(impulse) + odd + 2 * _REACH :: -2][: 2 * _REACH + 1] for odd in (0, 1)]
    return torch.from_numpy(np.stack(phases))[:, None]


def upsampled(sound: Tensor, filters: Tensor) -> Tensor:
    """Upsample float32 (batch, samples) to twice as many, less the filters' reach at both ends."""
    return F.conv1d(sound[:, None], filters).transpose(1, 2).flatten(1)
