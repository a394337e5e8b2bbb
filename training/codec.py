"""Trains the codec: genuine DAC, small."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from export import demo
from export.codec_config import build_codec, packaged_config
from export.codec_graphs import quantizers
from export.random_codec import random_codec
from export.upstream import DAC
from training import settings
from training.loop import Deadline, Losses, Trainer
from training.spectra import SpectralLoss
from training.speech import ESPEAK_RATE_HZ, SAMPLE_RATE_HZ, Corpus


def new_codec(config: dict[str, Any] = demo.CODEC, seed: int = 0) -> DAC:
    """The codec before training, every layer's output levelled, ready to be trained."""
    codec = build_codec(OmegaConf.merge(packaged_config(), config))
    random_codec(codec, torch.Generator().manual_seed(seed), lambda: None)
    return codec.requires_grad_(True).train()


class Segments:
    """Pieces of the corpus, by step: the same for everyone, so nothing of it needs saving."""

    def __init__(self, corpus: Corpus, batch: int, frames: int, frame_samples: int) -> None:
        self.corpus, self.batch = corpus, batch
        self.length = frames * frame_samples * ESPEAK_RATE_HZ // SAMPLE_RATE_HZ

    def __call__(self, step: int) -> Tensor:
        """float32 (batch, 1, samples)."""
        chance = np.random.default_rng((7, step))
        return torch.from_numpy(np.stack([self._segment(chance) for _ in range(self.batch)]))[
            :, None
        ]

    def _segment(self, chance: np.random.Generator) -> np.ndarray:
        utterance = self.corpus.utterances[chance.integers(len(self.corpus.utterances))]
        spare = utterance.length - self.length
        start = int(chance.integers(spare + 1)) if spare > 0 else 0
        waveform = self.corpus.waveform(utterance, start, min(self.length, utterance.length))
        padded = np.zeros(2 * self.length, np.float32)
        padded[: len(waveform)] = waveform
        return padded * np.float32(chance.uniform(0.5, 1.2))


class Codebooks:
    """Watches which codes are used, and moves those that are not to where vectors are."""

    def __init__(self, codec: DAC) -> None:
        self.used: dict[Any, Tensor] = {}
        self.latest: dict[Any, Tensor] = {}
        for quantizer in quantizers(codec):
            self.used[quantizer] = torch.zeros(quantizer.codebook_size, dtype=torch.bool)
            quantizer.register_forward_hook(self._watch)

    def _watch(self, module: Any, _: object, output: Any) -> None:
        """`output`: quantised, two losses, codes (batch, frames), vectors (batch, 8, frames)."""
        self.used[module][output[3].flatten()] = True
        self.latest[module] = output[4].detach().transpose(1, 2).flatten(0, 1)

    @torch.no_grad()
    def revive(self) -> float:
        """Returns the share of codes that were in use since the last time."""
        shares = []
        for module, used in self.used.items():
            unused = torch.nonzero(~used).flatten()
            vectors = self.latest[module]
            chosen = torch.randint(len(vectors), (len(unused),))
            noise = 0.05 * vectors.std() * torch.randn(len(unused), vectors.shape[1])
            module.codebook.weight[unused] = vectors[chosen] + noise
            shares.append(float(used.float().mean()))
            used.zero_()
        return sum(shares) / len(shares)


def encoding_parts(codec: Any) -> list[nn.Module]:
    """All that codes depend on, and what they stand for."""
    quantizer = codec.quantizer
    return [
        codec.encoder,
        quantizer.downsample,
        quantizer.pre_module,
        quantizer.semantic_quantizer,
        quantizer.quantizer,
    ]


def reconstruct(codec: Any, waveform: Tensor, unquantised: bool) -> tuple[Tensor, Losses]:
    """Encode and decode.

    Args:
        codec: In training mode.
        waveform: float32 (batch, 1, samples).
        unquantised: Lead the signal around the codebooks, which only learn to follow it. From
            random codebooks nothing comes back that an encoder could learn from: trained through
            them from the start, it settled on two codes and the decoder on a mean spectrum.

    Returns:
        float32 (batch, 1, samples), and the codebooks' losses.

    Source: `DownsampleResidualVectorQuantize.forward`, fish-speech 0.1.0.
    """
    quantizer = codec.quantizer
    z = quantizer.pre_module(quantizer.downsample(codec.encoder(waveform)))
    wanted = z.detach()
    given = wanted if unquantised else z
    semantic, _, _, commitment, codebook = quantizer.semantic_quantizer(given)
    residual, _, _, more_commitment, more_codebook = quantizer.quantizer(given - semantic)
    chosen = semantic + residual
    made = codec.decoder(quantizer.upsample(quantizer.post_module(z if unquantised else chosen)))
    return made, {
        "follow": (chosen - wanted).square().mean(),
        "codebook": codebook + more_codebook,
        "commitment": commitment + more_commitment,
    }


def train_codec(
    wanted: settings.Codec, corpus: Corpus, folder: Path, deadline: Deadline
) -> Trainer:
    """Train, or go on training, into `folder`; see `Trainer.run`."""
    trainer = Trainer("codec", new_codec(), wanted.optimiser, folder)
    codec: Any = trainer.model
    spectral = SpectralLoss(wanted.mels, SAMPLE_RATE_HZ, wanted.floor)
    segments = Segments(corpus, wanted.batch, wanted.frames, int(codec.frame_length))
    codebooks = Codebooks(codec)

    def losses_of(step: int) -> Losses:
        fixed = step >= wanted.codes_fixed_after
        if step == wanted.codes_fixed_after:
            codec.load_state_dict(trainer.average.state_dict())
        for part in encoding_parts(codec):
            part.requires_grad_(not fixed)
        if step % wanted.revive_every == 0 and 0 < step < wanted.codes_fixed_after:
            print(f"codec {step}: {codebooks.revive():.0%} of the codes in use", flush=True)
        waveform = segments(step)
        made, losses = reconstruct(codec, waveform, step < wanted.quantised_after)
        logarithm, amplitude = spectral(made[:, 0], waveform[:, 0])
        losses |= {"logarithm": logarithm, "amplitude": amplitude}
        if fixed:
            losses = {name: losses[name] for name in ("logarithm", "amplitude")}
        return {name: getattr(wanted, name) * loss for name, loss in losses.items()}

    trainer.run(losses_of, deadline)
    return trainer
