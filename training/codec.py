"""Trains the codec: genuine DAC, small, with codebooks fitted beforehand.

The encoder's target are the computed latents. The decoder's input are these latents, quantised; of
half of the segments it is what the encoder finds instead, either after the encoder's training or
while it is still going on.
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

_FITTED_TO = 80_000  # frames that the codebooks are fitted to: one hour
_RELOAD_STEPS = 200  # steps between two looks for a newer encoder
Half = Callable[[Any, Tensor], Tensor]


def new_codec(config: dict[str, Any] = demo.CODEC, seed: int = 0) -> DAC:
    """The codec before training, its weights scaled so that each layer's output has deviation 1."""
    codec = build_codec(OmegaConf.merge(packaged_config(), config))
    random_codec(codec, torch.Generator().manual_seed(seed), lambda: None)
    return codec.requires_grad_(True).train()


def fitted_codec(latents: features.Latents, folder: Path) -> DAC:
    """The codec before training with its codebooks fitted (once) and frozen."""
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
    """Encode float32 (batch, 1, samples) to unquantised latents, (batch, latents, frames).

    Source: `DownsampleResidualVectorQuantize.forward`, fish-speech 0.1.0.
    """
    quantizer = codec.quantizer
    return quantizer.pre_module(quantizer.downsample(codec.encoder(waveform)))


def decode(codec: Any, latents: Tensor) -> Tensor:
    """Decode quantised latents, (batch, latents, frames), to float32 (batch, 1, samples).

    Source: `DownsampleResidualVectorQuantize.decode`, fish-speech 0.1.0.
    """
    quantizer = codec.quantizer
    return codec.decoder(quantizer.upsample(quantizer.post_module(latents)))


def decoder_losses(
    codec: Any, waveform: Tensor, latents: Tensor, spectral: SpectralLoss, decode: Half = decode
) -> Losses:
    """Differences of the decoder's sound; the first frame only serves as context.

    Args:
        codec: The codec, with fitted codebooks.
        waveform: float32 (batch, 1, samples).
        latents: float32 (batch, latents, frames).
        spectral: Compares waveforms.
        decode: `decode`, compiled or not.
    """
    batch, width, frames = latents.shape
    flat = latents.transpose(1, 2).reshape(-1, width)
    rounded = look_up(codec, flat)[1].view(batch, frames, width).transpose(1, 2)
    first = int(codec.frame_length)
    made, true = decode(codec, rounded)[:, 0, first:], waveform[:, 0, first:]
    logarithm, amplitude = spectral(made, true)
    return {
        "waveform": (made - true).square().mean() / true.square().mean(),
        "logarithm": logarithm,
        "amplitude": amplitude,
    }


def encoder_losses(codec: Any, waveform: Tensor, latents: Tensor, encode: Half = encode) -> Losses:
    """Mean squared error of the encoder for each subject, without the first frame."""
    square = (encode(codec, waveform) - latents)[..., 1:].square().mean((0, 2))
    return {name: square[where].sum() for name, where in features.SUBJECTS.items()}


@torch.no_grad()
def half_encoded(codec: Any, waveform: Tensor, latents: Tensor, encode: Half = encode) -> Tensor:
    """The latents, with those that the encoder finds in the first half of the rows."""
    found = encode(codec, waveform[: len(waveform) // 2])
    return torch.cat([found, latents[len(found) :]])


def train_half(
    half: str,
    wanted: settings.Codec,
    corpus: Corpus,
    latents: features.Latents,
    folder: Path,
    deadline: Deadline,
) -> Trainer:
    """Train the "encoder", or after it the "decoder", into `folder`, or go on there.

    Raises:
        StoppedError: See `Trainer.run`; or if the decoder's turn comes before there is an encoder.
            With a final deadline both may be trained at the same time.
    """
    is_encoder = half == "encoder"
    encoder = SavedEncoder(folder)
    if not (is_encoder or encoder.codec or deadline.final):
        raise StoppedError("decoder: the encoder comes first: python -m training encoder")
    optimiser = wanted.encoder if is_encoder else wanted.decoder
    trainer = Trainer(half, fitted_codec(latents, folder), optimiser, folder)
    batch = wanted.encoder_batch if is_encoder else wanted.decoder_batch
    segments = Segments(corpus, latents, batch, wanted.frames)
    keep_memory()  # without it a third of a step goes into new pages
    trainer.run(_losses(half, trainer.model, wanted, segments, encoder), deadline)
    return trainer


def _losses(
    half: str, codec: Any, wanted: settings.Codec, segments: Segments, encoder: "SavedEncoder"
) -> Callable[[int], Losses]:
    """Step -> the weighted losses of the "encoder" or the "decoder"."""
    codec.quantizer.semantic_quantizer.eval()
    codec.quantizer.quantizer.eval()
    spectral = SpectralLoss(wanted.mels, SAMPLE_RATE_HZ, wanted.floor).to(DEVICE)
    layers: Any = sys.modules["dac.nn.layers"]
    layers.snake = _snake
    encoding, decoding = encode, decode
    if DEVICE.type == "cpu":  # on a GPU compiling takes longer than it saves
        encoding, decoding = torch.compile(encode), torch.compile(decode)

    def losses(step: int) -> Losses:
        waveform, target = segments(step)
        if half == "encoder":
            found = encoder_losses(codec, waveform, target, encoding)
        else:
            if step % _RELOAD_STEPS == 0:
                encoder.reload()
            if encoder.codec is not None:
                target = half_encoded(encoder.codec, waveform, target, encoding)
            found = decoder_losses(codec, waveform, target, spectral, decoding)
        return {name: getattr(wanted, name) * loss for name, loss in found.items()}

    return losses


class SavedEncoder:
    """The averaged encoder as it was saved last.

    Attributes:
        codec: A codec with that encoder; None before one is saved.
    """

    def __init__(self, folder: Path) -> None:
        self.codec: Any = None
        self._path, self._seen = folder / "encoder.pt", 0.0
        self.reload()

    def reload(self) -> None:
        """Load the saved encoder if it is newer than the loaded one."""
        if self._path.is_file() and (saved := self._path.stat().st_mtime) > self._seen:
            state = torch.load(self._path, DEVICE, weights_only=True)["average"]
            if self.codec is None:
                self.codec = new_codec().to(DEVICE).requires_grad_(False).eval()
            self.codec.load_state_dict(state)
            self._seen = saved


def _snake(x: Tensor, alpha: Tensor) -> Tensor:
    """`dac.nn.layers.snake`, which is TorchScript and so cannot be compiled, in plain torch."""
    return x + (alpha + 1e-9).reciprocal() * torch.sin(alpha * x).pow(2)


def joined(encoder: Any, decoder: Any) -> Any:
    """The decoder's codec with the other one's encoder; both have the same codebooks."""
    for part in ("encoder", "quantizer.downsample", "quantizer.pre_module"):
        decoder.get_submodule(part).load_state_dict(encoder.get_submodule(part).state_dict())
    return decoder
