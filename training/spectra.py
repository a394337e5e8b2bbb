"""Distance of two sounds: mel spectrograms at several resolutions."""

import torch
from torch import Tensor, nn


def mel_filters(window: int, bands: int, rate_hz: int) -> Tensor:
    """Triangles of equal area on the mel scale, float32 (bands, window // 2 + 1).

    Source: mel = 2595 log10(1 + f / 700), O'Shaughnessy 1987.
    """
    frequencies = torch.linspace(0, rate_hz / 2, window // 2 + 1)
    top = 2595 * torch.log10(torch.tensor(1 + rate_hz / 2 / 700))
    edges = 700 * (10 ** (torch.linspace(0, float(top), bands + 2) / 2595) - 1)
    low, middle, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising = (frequencies - low) / (middle - low)
    falling = (high - frequencies) / (high - middle)
    filters = torch.minimum(rising, falling).clamp(min=0)
    # A band narrower than the bins has no bin of its own, so it takes the nearest one.
    nearest = (frequencies[None] - middle).abs().argmin(1)
    empty = filters.sum(1) == 0
    filters[empty, nearest[empty]] = 1.0
    return filters / filters.sum(1, keepdim=True)


class MelSpectrogram(nn.Module):
    """Amplitudes of mel bands, (batch, samples) -> (batch, bands, frames)."""

    shape: Tensor
    filters: Tensor

    def __init__(self, window: int, bands: int, rate_hz: int) -> None:
        super().__init__()
        self.window = window
        self.register_buffer("shape", torch.hann_window(window))
        self.register_buffer("filters", mel_filters(window, bands, rate_hz))

    def forward(self, waveform: Tensor) -> Tensor:
        spectrum = torch.stft(
            waveform, self.window, self.window // 4, window=self.shape, return_complex=True
        )
        # The small constant keeps the gradient of the square root finite at silence.
        power = spectrum.real.square() + spectrum.imag.square() + 1e-12
        amplitude = power.sqrt() * (2 / self.window)
        return self.filters @ amplitude


class SpectralLoss(nn.Module):
    """Differences of mel spectrograms at several resolutions.

    Differences of logarithms give loud and quiet sounds equal weight, but have no gradient where
    either sound is silent; differences of amplitudes follow loud sounds, and always have one.
    """

    def __init__(self, mels: tuple[tuple[int, int], ...], rate_hz: int, floor: float) -> None:
        super().__init__()
        self.scales = nn.ModuleList(MelSpectrogram(w, b, rate_hz) for w, b in mels)
        self.floor = floor

    def forward(self, made: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Compare waveforms, float32 (batch, samples).

        Returns:
            Mean absolute difference of log10, and relative difference of amplitudes (0: equal,
            1: silence).
        """
        logarithms, amplitudes = [], []
        for scale in self.scales:
            a, b = scale(made), scale(true)
            logarithms.append((self._log(a) - self._log(b)).abs().mean())
            amplitudes.append((a - b).norm() / b.norm())
        return torch.stack(logarithms).mean(), torch.stack(amplitudes).mean()

    def _log(self, amplitudes: Tensor) -> Tensor:
        return amplitudes.clamp(min=self.floor).log10()
