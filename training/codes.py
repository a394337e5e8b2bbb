"""The corpus as codes of the codec, which the transformers learn from."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.device import DEVICE
from training.features import Latents
from training.speech import Corpus

_SLICE = 16384  # frames that are looked up together


class Codes:
    """Attributes:
    utterances: The corpus's utterances.
    by_voice: For each voice the indices of its utterances.
    digest: Digest of the codebooks that the codes belong to.
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
        """Codes of one utterance, int64 (codebooks, frames)."""
        return self._codes[:, self._starts[index] : self._starts[index + 1]].astype(np.int64)


def digest_of(parts: list[nn.Module]) -> str:
    """Digest of all weights, eight hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        for parameter in part.parameters():
            digest.update(parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


@torch.inference_mode()
def make_codes(codec: Any, corpus: Corpus, latents: Latents, folder: Path) -> Codes:
    """Look up all latents, unless the folder has codes of these codebooks."""
    quantizer = codec.quantizer.eval()
    path = folder / f"codes-{digest_of([quantizer.semantic_quantizer, quantizer.quantizer])}.npz"
    if not path.is_file():
        codec.to(DEVICE)
        found = [look_up(codec, v.to(DEVICE))[0].cpu() for v in latents.values.split(_SLICE)]
        save_codes(torch.cat(found, dim=1).numpy(), latents.starts, path)
    return Codes(corpus, path)


def save_codes(codes: np.ndarray, starts: list[int], path: Path) -> None:
    """Write the codes of a corpus, to a file that is replaced in one operation.

    Args:
        codes: int (codebooks, frames), of all utterances in a row.
        starts: First frame of each utterance, and the number of frames.
        path: The file.
    """
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, codes=codes.astype(np.uint16), starts=starts)
    unfinished.replace(path)


@torch.no_grad()
def look_up(codec: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Codes, int64 (codebooks, frames), and their quantised latents, float32 (frames, latents)."""
    z = latents.T[None]
    semantic, first, *_ = codec.quantizer.semantic_quantizer(z)
    residual, others, *_ = codec.quantizer.quantizer(z - semantic)
    return torch.cat([first, others], dim=1)[0], (semantic + residual)[0].T
