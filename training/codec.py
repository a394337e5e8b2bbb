"""Trains the codec: genuine DAC, small, with codebooks fitted beforehand.

The encoder's target are the computed latents. The decoder is given them as the codebooks round
them, and, of half of the segments, what the encoder takes them for: at the end of its training, or
as it learns beside.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from engine.codec.memory import keep_memory
from engine.codec.quantizer import quantizers
from families.fish_s1 import demo
from families.fish_s1.codec_config import build_codec, packaged_config
from families.fish_s1.random_codec import random_codec
from families.fish_s1.upstream import DAC
from training import codebooks, features, settings
from training.codes import look_up
from training.device import DEVICE
from training.loop import Deadline, Losses, StoppedError, Trainer
from training.segments import Segments
from training.spectra import SpectralLoss
from training.speech import SAMPLE_RATE_HZ, Corpus

_FITTED_TO = 80_000  # frames
_HEARD_ANEW_STEPS = 200
Half = Callable[[Any, Tensor], Tensor]


def new_codec(config: dict[str, Any] = demo.CODEC, seed: int = 0) -> DAC:
    """The codec before training, every layer's output levelled, ready to be trained."""
    codec = build_codec(OmegaConf.merge(packaged_config(), config))
    random_codec(codec, torch.Generator().manual_seed(seed), lambda: None)
    return codec.requires_grad_(True).train()


def fitted_codec(latents: features.Latents, folder: Path) -> DAC:
    """The same with its codebooks fitted, once, and fixed."""
    codec: Any = new_codec()
    books, path = torch.nn.ModuleList(quantizers(codec)), folder / "codebooks.pt"
    if not path.is_file():
        chance = torch.Generator().manual_seed(3)
        some = torch.randperm(len(latents.values), generator=chance)[:_FITTED_TO]
        subjects = [features.SUBJECTS[subject] for subject in features.BOOKS]
        left = codebooks.fit(list(books), subjects, latents.values[some].to(DEVICE))
        for subject, part in zip(features.BOOKS, left, strict=True):
            print(f"codebooks: {subject}, {part:.1%} of the variance left", flush=True)
        torch.save(books.state_dict(), path)
    books.load_state_dict(torch.load(path))
    for part in (codec.quantizer.semantic_quantizer, codec.quantizer.quantizer):
        part.requires_grad_(False)
    return codec


def encode(codec: Any, waveform: Tensor) -> Tensor:
    """float32 (batch, 1, samples) -> latents before the codebooks, (batch, latents, frames).

    Source: `DownsampleResidualVectorQuantize.forward`, fish-speech 0.1.0.
    """
    quantizer = codec.quantizer
    return quantizer.pre_module(quantizer.downsample(codec.encoder(waveform)))


def decode(codec: Any, latents: Tensor) -> Tensor:
    """The way back from quantised latents. Source: the same."""
    quantizer = codec.quantizer
    return codec.decoder(quantizer.upsample(quantizer.post_module(latents)))


def decoder_losses(
    codec: Any, waveform: Tensor, latents: Tensor, spectral: SpectralLoss, decode: Half = decode
) -> Losses:
    """How the decoder sounds; the first frame only serves as the others' past.

    Args:
        codec: With fitted codebooks.
        waveform: float32 (batch, 1, samples).
        latents: float32 (batch, latents, frames).
        spectral: Compares waveforms.
        decode: The way back, maybe compiled.
    """
    batch, width, frames = latents.shape
    flat = latents.transpose(1, 2).reshape(-1, width)
    rounded = look_up(codec, flat)[1].view(batch, frames, width).transpose(1, 2)
    heard = int(codec.frame_length)
    made, true = decode(codec, rounded)[:, 0, heard:], waveform[:, 0, heard:]
    logarithm, amplitude = spectral(made, true)
    return {
        "waveform": (made - true).square().mean() / true.square().mean(),
        "logarithm": logarithm,
        "amplitude": amplitude,
    }


def encoder_losses(codec: Any, waveform: Tensor, latents: Tensor, encode: Half = encode) -> Losses:
    """Mean squares of each subject, likewise without the first frame."""
    square = (encode(codec, waveform) - latents)[..., 1:].square().mean((0, 2))
    return {name: square[where].sum() for name, where in features.SUBJECTS.items()}


@torch.no_grad()
def half_heard(codec: Any, waveform: Tensor, latents: Tensor, encode: Half = encode) -> Tensor:
    """The latents, but of the first half of the rows as the encoder finds them."""
    heard = encode(codec, waveform[: len(waveform) // 2])
    return torch.cat([heard, latents[len(heard) :]])


def train_half(
    half: str,
    wanted: settings.Codec,
    corpus: Corpus,
    latents: features.Latents,
    folder: Path,
    deadline: Deadline,
) -> Trainer:
    """Train, or go on training, the "encoder" or then the "decoder" into `folder`.

    Raises:
        StoppedError: See `Trainer.run`; or if the encoder is still to be trained, but for a
            deadline that is final, when both are.
    """
    optimiser = wanted.encoder if half == "encoder" else wanted.decoder
    batch = wanted.encoder_batch if half == "encoder" else wanted.decoder_batch
    hearing = Hearing(folder)
    if half == "decoder" and not (hearing.codec or deadline.final):
        raise StoppedError("decoder: the encoder comes first: python -m training encoder")
    trainer = Trainer(half, fitted_codec(latents, folder), optimiser, folder)
    codec: Any = trainer.model
    codec.quantizer.semantic_quantizer.eval()
    codec.quantizer.quantizer.eval()
    spectral = SpectralLoss(wanted.mels, SAMPLE_RATE_HZ, wanted.floor).to(DEVICE)
    segments = Segments(corpus, latents, batch, wanted.frames)
    keep_memory()  # a third of a step was spent on new pages
    layers: Any = sys.modules["dac.nn.layers"]
    layers.snake = _snake
    encoding, decoding = encode, decode
    if DEVICE.type == "cpu":  # on a GPU it takes longer than it saves
        encoding, decoding = torch.compile(encode), torch.compile(decode)

    def losses(step: int) -> Losses:
        waveform, target = segments(step)
        if half == "encoder":
            found = encoder_losses(codec, waveform, target, encoding)
        else:
            if step % _HEARD_ANEW_STEPS == 0:
                hearing.look()
            if hearing.codec is not None:
                target = half_heard(hearing.codec, waveform, target, encoding)
            found = decoder_losses(codec, waveform, target, spectral, decoding)
        return {name: getattr(wanted, name) * loss for name, loss in found.items()}

    trainer.run(losses, deadline)
    return trainer


class Hearing:
    """The averaged encoder as it was saved last; None before it is."""

    def __init__(self, folder: Path) -> None:
        self.codec: Any = None
        self._path, self._seen = folder / "encoder.pt", 0.0
        self.look()

    def look(self) -> None:
        """Take a newer one, if there is."""
        if self._path.is_file() and (found := self._path.stat().st_mtime) > self._seen:
            state = torch.load(self._path, DEVICE, weights_only=True)["average"]
            if self.codec is None:
                self.codec = new_codec().to(DEVICE).requires_grad_(False).eval()
            self.codec.load_state_dict(state)
            self._seen = found


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    """As `dac.nn.layers.snake`, which is a script and so can't be compiled."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)


def joined(encoder: Any, decoder: Any) -> Any:
    """The decoder's codec with the encoder's encoder; the codebooks are the same."""
    for part in ("encoder", "quantizer.downsample", "quantizer.pre_module"):
        decoder.get_submodule(part).load_state_dict(encoder.get_submodule(part).state_dict())
    return decoder
