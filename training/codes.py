"""The corpus in the codec's codes: what the transformers learn from."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import nn

from export.upstream import DAC
from training.loop import Deadline, StoppedError
from training.speech import Corpus, Utterance

_BATCH = 32  # utterances of similar length, encoded together


class Codes:
    """Attributes:
    utterances: As in the corpus.
    by_voice: Indices of the utterances of each voice.
    digest: Of what encoded them.
    """

    def __init__(self, corpus: Corpus, path: Path) -> None:
        stored = np.load(path)
        self.utterances = corpus.utterances
        self.digest = path.stem.removeprefix("codes-")
        self._codes, self._starts = stored["codes"], stored["starts"]
        voices: dict[object, list[int]] = {}
        for index, utterance in enumerate(self.utterances):
            voices.setdefault(utterance.voice, []).append(index)
        self.by_voice = list(voices.values())

    def __getitem__(self, index: int) -> np.ndarray:
        """int64 (codebooks, frames)."""
        return self._codes[:, self._starts[index] : self._starts[index + 1]].astype(np.int64)


def digest_of(parts: list[nn.Module]) -> str:
    """Eight hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for part in parts:
        for parameter in part.parameters():
            digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()[:8]


def make_codes(codec: DAC, digest: str, corpus: Corpus, folder: Path, deadline: Deadline) -> Codes:
    """Encode everything, unless this codec did before.

    Raises:
        StoppedError: If time is up.
    """
    path = folder / f"codes-{digest}.npz"
    if not path.is_file():
        order = sorted(corpus.utterances, key=lambda utterance: utterance.length)
        found: dict[int, np.ndarray] = {}
        for first in range(0, len(order), _BATCH):
            if deadline.over:
                raise StoppedError("codes: stopped, nothing saved")
            batch = order[first : first + _BATCH]
            found |= zip([u.start for u in batch], encode(codec, corpus, batch), strict=True)
        codes = [found[u.start] for u in corpus.utterances]
        starts = np.cumsum([0, *(c.shape[1] for c in codes)])
        unfinished = path.with_suffix(".part.npz")
        np.savez(unfinished, codes=np.concatenate(codes, axis=1).astype(np.uint16), starts=starts)
        unfinished.replace(path)
    return Codes(corpus, path)


@torch.inference_mode()
def encode(codec: DAC, corpus: Corpus, utterances: list[Utterance]) -> list[np.ndarray]:
    """int64 (codebooks, frames) of each; padding behind an utterance does not change its codes."""
    waveforms = [corpus.waveform(u) for u in utterances]
    padded = np.zeros((len(waveforms), 1, max(map(len, waveforms))), np.float32)
    for row, waveform in zip(padded, waveforms, strict=True):
        row[0, : len(waveform)] = waveform
    lengths = torch.tensor([len(w) for w in waveforms])
    codes, frames = codec.encode(torch.from_numpy(padded), lengths)
    return [c[:, :n].numpy() for c, n in zip(codes, frames.tolist(), strict=True)]
