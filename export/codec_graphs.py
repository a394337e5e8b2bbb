"""The two codec graphs that are served: waveform -> codes, and windows of codes -> audio.

Source: `DAC.encode`, `DAC.decode` and `DownsampleResidualVectorQuantize` of fish-speech 0.1.0,
`VectorQuantize` of descript-audio-codec 1.0.0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.codec_layers import Chain, WindowTransformer, folded, rebuilt


def samples_per_frame(codec: Any) -> int:
    """2048 in S1-mini: encoder strides 2 x 4 x 8 x 8 times the quantizer's downsampling 2 x 2."""
    samples = 1
    for stride in (*codec.encoder_rates, *codec.quantizer.downsample_factor):
        samples *= int(stride)
    return samples


def quantizers(codec: Any) -> list[Any]:
    """Semantic codebook first, then the residual ones."""
    return [
        *codec.quantizer.semantic_quantizer.quantizers,
        *codec.quantizer.quantizer.quantizers,
    ]


class Quantizer(nn.Module):
    """One codebook: nearest entry by cosine, in a space of few dimensions."""

    unit: Tensor
    unit_squared: Tensor

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.project_in = folded(genuine.in_proj)
        self.project_out = folded(genuine.out_proj)
        self.codebook = nn.Parameter(genuine.codebook.weight.detach().clone())
        unit = F.normalize(self.codebook.detach())
        self.register_buffer("unit", unit.t().contiguous())
        self.register_buffer("unit_squared", unit.pow(2).sum(1)[None])

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (batch, dim, time) -> its quantized form, int64 codes (batch, time)."""
        latent = self.project_in(z)
        direction = F.normalize(latent.transpose(1, 2), dim=-1)
        # Upstream's expression, term by term: codes must not flip on rounding.
        distance = direction.pow(2).sum(-1, keepdim=True) - 2 * direction @ self.unit
        codes = (-(distance + self.unit_squared)).argmax(-1)
        entry = F.embedding(codes, self.codebook).transpose(1, 2)
        return self.project_out(latent + (entry - latent)), codes


class EncoderGraph(nn.Module):
    """waveform float32 (batch, samples) in [-1, 1] -> codes int64 (batch, codebooks, frames).

    Any number of samples: the last frame is filled up with zeros, as upstream does.
    """

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.samples_per_frame = samples_per_frame(codec)
        self.encoder = rebuilt(codec.encoder.block, "encoder")
        self.downsample = rebuilt(codec.quantizer.downsample, "quantizer.downsample")
        self.transformer = rebuilt(codec.quantizer.pre_module, "quantizer.pre_module")
        self.quantizers = nn.ModuleList(Quantizer(q) for q in quantizers(codec))

    def forward(self, waveform: Tensor) -> Tensor:
        frame = self.samples_per_frame
        frames = (waveform.shape[1] + frame - 1) // frame
        x = F.pad(waveform, (0, frame - 1))[:, None, : frames * frame]
        z = self.transformer(self.downsample(self.encoder(x)))
        codes = []
        for quantizer in self.quantizers:
            quantized, code = quantizer(z)
            z = z - quantized
            codes.append(code)
        # A slice whose end is not known before the run keeps the codebook axis free in ONNX, as
        # the contract has it: Triton's ONNX Runtime backend wants config and graph to agree.
        count = waveform.shape[0] * 0 + len(self.quantizers)
        return torch.stack(codes, dim=1)[:, :count]


@dataclass(frozen=True)
class Stage:
    """One of the decoder's convolutional layers, and what it needs for the new frames.

    Attributes:
        layer: Of `codec_layers`.
        rate: Its inputs per frame.
        context: Inputs before the first one of the new frames that can be heard in them.
    """

    layer: Any
    rate: int
    context: int


def stages(convolutions: Chain) -> Iterator[Stage]:
    """The layers of a chain, whatever chains are in it, last one first."""
    layers = list(convolutions.layers())
    rate, after = math.prod(getattr(layer, "stride", 1) for layer in layers), 0
    for layer in reversed(layers):
        rate //= getattr(layer, "stride", 1)
        after = layer.context(after)
        yield Stage(layer, rate, after)


class DecoderGraph(nn.Module):
    """A window of codes -> the audio of its new frames, equal to decoding everything at once.

    Takes codes int64 (batch, codebooks, frames), history first and new frames last, and
    new_frames int64 (batch, new), the absolute numbers of the last `new` frames; gives audio
    float32 (batch, new * samples_per_frame) in [-1, 1].

    The transformer sees all that it is given; from there on each layer gets the new frames and
    what it and the layers after it look back on, no more. The convolutions are nearly all of the
    cost, and those at high rates, nearly all of theirs, look back on a fraction of a frame.
    """

    largest: Tensor
    offset: Tensor
    count: Tensor

    def __init__(self, codec: Any) -> None:
        super().__init__()
        self.samples_per_frame = samples_per_frame(codec)
        books: list[Any] = [Quantizer(q) for q in quantizers(codec)]
        sizes = [book.codebook.shape[0] for book in books]
        self.register_buffer("largest", torch.tensor(sizes)[None, :, None] - 1)
        self.register_buffer("offset", torch.tensor([0, *sizes[:-1]]).cumsum(0)[None, :, None])
        self.codebooks = nn.Parameter(torch.cat([b.codebook.detach() for b in books]))
        # The sum of all projections is one projection of all entries side by side.
        weight = torch.cat([b.project_out.weight.detach()[:, :, 0] for b in books], dim=1)
        bias = torch.stack([b.project_out.bias.detach() for b in books]).sum(0)
        self.project = nn.Linear(weight.shape[1], weight.shape[0])
        self.project.weight = nn.Parameter(weight)
        self.project.bias = nn.Parameter(bias)
        self.transformer = rebuilt(codec.quantizer.post_module, "quantizer.post_module")
        self.convolutions = Chain(
            *rebuilt(codec.quantizer.upsample, "quantizer.upsample"),
            *rebuilt(codec.decoder.model, "decoder"),
        )
        self.stages = list(stages(self.convolutions))[::-1]
        self.context_frames = self.stages[0].context
        block_size = int(codec.quantizer.post_module.config.block_size)
        self.register_buffer("count", torch.arange(block_size)[None])

    @property
    def history_frames(self) -> int:
        """Frames before the new ones that can still be heard in them; more changes nothing."""
        reach = self.transformer.reach if isinstance(self.transformer, WindowTransformer) else 0
        return self.context_frames + reach

    def latents(self, codes: Tensor) -> Tensor:
        """Sum of the codebook entries: float32 (batch, dim, frames)."""
        codes = codes[:, : self.largest.shape[1]].clamp(min=0)
        codes = torch.minimum(codes, self.largest) + self.offset
        entries = F.embedding(codes, self.codebooks)  # batch, codebooks, frames, 8
        return self.project(entries.transpose(1, 2).flatten(2)).transpose(1, 2)

    def hidden(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        """What the convolutions are given: float32 (batch, dim, frames), history included."""
        frames, new = codes.shape[2], new_frames.shape[1]
        positions = new_frames[:, :1] - (frames - new) + self.count[:, :frames]
        z = self.latents(codes)
        if isinstance(self.transformer, WindowTransformer):  # a codec may do without
            z = self.transformer(z, positions)
        return z

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        new = new_frames.shape[1]
        x = self.hidden(codes, new_frames)
        for stage in self.stages:  # at the start of the audio there is less, and slices are short
            x = stage.layer(x[:, :, -(new * stage.rate + stage.context) :])
        return x[:, 0, -(new * self.samples_per_frame) :]
