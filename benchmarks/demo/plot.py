"""The demo's picture: waveform coloured by speaker, spectrogram with captions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import new_figure

if TYPE_CHECKING:
    from benchmarks.demo.run import Caption

WINDOW = 1024  # samples of one spectrum: 23 ms at 44.1 kHz
TOP_HZ = 12_000  # speech has little above
CHARACTERS = 190  # caption characters that fit across the picture
COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red")


def plot(
    waveform: np.ndarray, sample_rate_hz: int, captions: Sequence[Caption], path: Path
) -> None:
    """Draw the picture into a PNG file.

    Args:
        waveform: float32 (samples,), in [-1, 1].
        sample_rate_hz: Samples per second.
        captions: Lines with their speakers and places.
        path: The PNG file.
    """
    figure = new_figure(14, 6)
    wave, spectrum = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    # Digital silence has no decibels, so a small constant is added.
    spectrum.specgram(
        waveform + 1e-6, NFFT=WINDOW, Fs=sample_rate_hz, noverlap=WINDOW // 2, cmap="magma"
    )
    speakers = list(dict.fromkeys(caption.speaker for caption in captions))
    for caption in captions:
        samples, number = np.arange(caption.start, caption.end), speakers.index(caption.speaker)
        colour = COLOURS[number % len(COLOURS)]
        wave.plot(samples / sample_rate_hz, waveform[samples], color=colour, linewidth=0.4)
        spectrum.axvline(caption.start / sample_rate_hz, color="white", linewidth=0.8)
        width = int(CHARACTERS * len(samples) / len(waveform))
        spectrum.text(
            caption.start / sample_rate_hz + 0.004 * len(waveform) / sample_rate_hz,
            TOP_HZ * 0.97,
            textwrap.fill(f"{caption.speaker}: {caption.text}", max(8, width)),
            color="white",
            fontsize=8,
            verticalalignment="top",
            bbox={"facecolor": "black", "edgecolor": colour, "alpha": 0.7, "pad": 2},
        )
    wave.set(ylabel="amplitude", ylim=(-1, 1), title=" and ".join(speakers))
    spectrum.set(
        ylabel="Hz", ylim=(0, TOP_HZ), xlabel="s", xlim=(0, len(waveform) / sample_rate_hz)
    )
    figure.savefig(path, dpi=120)
