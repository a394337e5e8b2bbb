"""The picture of `make quality`: the same sentences said in three ways."""

from pathlib import Path

import numpy as np

from benchmarks.quality.speech import Sentence, voices
from benchmarks.report import new_figure
from training.speech import SAMPLE_RATE_HZ
from voicereel import Audio


def save(
    folder: Path, lines: list[Sentence], decoded: list[np.ndarray], made: list[np.ndarray]
) -> None:
    """Write quality.png, spectrograms of one sentence per voice, and the sounds as WAV files."""
    folder.mkdir(parents=True, exist_ok=True)
    count = min(len(lines), len(voices()))
    figure = new_figure(15, 3 * count)
    axes = figure.subplots(count, 3, squeeze=False, sharey=True)
    for number, line in enumerate(lines[:count]):
        ways = {"espeak-ng": line.true, "codec": decoded[number], "synthesis": made[number]}
        for axis, (way, waveform) in zip(axes[number], ways.items(), strict=True):
            axis.specgram(waveform + 1e-6, NFFT=1024, Fs=SAMPLE_RATE_HZ, noverlap=768, vmin=-150)
            axis.set(title=f"{way}, {line.variant}", ylim=(0, 8000))
            Audio(waveform, SAMPLE_RATE_HZ, "").save(folder / f"quality-{number}-{way}.wav")
        axes[number][0].set_ylabel(line.text[:40])
    figure.savefig(folder / "quality.png", dpi=80)
