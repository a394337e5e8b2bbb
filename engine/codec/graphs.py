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

from engine.codec.carried import Carried
from engine.codec.layers import CausalConv, Chain, folded, rebuilt
from engine.codec.transformer import WindowTransformer


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


class EncoderStep(nn.Module):
    """The next chunk of a waveform -> its codes, and what the chunk after it needs.

    Takes waveform float32 (batch, frames * samples_per_frame), state float32 (batch, state_size),
    zeros at first, and start int64 (), the samples before the chunk; gives codes int64 (batch,
    codebooks, frames) and the next state. Every layer has its own last inputs in the state, so
    nothing is computed twice, and a chunk may have any number of frames.
    """

    def __init__(self, codec: Any, max_frames: int) -> None:
        super().__init__()
        self.layers = Chain(
            rebuilt(codec.encoder.block, "encoder"),
            rebuilt(codec.quantizer.downsample, "quantizer.downsample"),
            rebuilt(codec.quantizer.pre_module, "quantizer.pre_module"),
        )
        self.quantizers = nn.ModuleList(Quantizer(q) for q in quantizers(codec))
        self.max_frames = 2**31  # or as many as its transformers have positions for
        per_frame = 1
        for layer in reversed(list(self.layers.layers())):
            if isinstance(layer, CausalConv):
                per_frame *= layer.conv.stride[0]
            elif isinstance(layer, WindowTransformer):
                layer.extend(max_frames * per_frame)
                self.max_frames = min(self.max_frames, len(layer.cos_sin) // per_frame)
        self.state_size = sum(getattr(module, "kept", 0) for module in self.modules())

    def forward(self, waveform: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        carried = Carried(state, start)
        codes = self.codes(self.layers(waveform[:, None], carried))
        return codes, carried.packed()

    def codes(self, z: Tensor) -> Tensor:
        """float32 (batch, dim, frames) -> int64 (batch, codebooks, frames)."""
        codes = []
        for quantizer in self.quantizers:
            quantized, code = quantizer(z)
            z = z - quantized
            codes.append(code)
        return torch.stack(codes, dim=1)


class EncoderGraph(nn.Module):
    """A waveform -> codes, chunk by chunk: memory does not grow with its length.

    Takes waveform float32 (batch, samples) in [-1, 1] and chunk_frames int64 (batch, 1), the
    frames to encode at a time, over all rows of the batch together; the smallest counts. Gives
    codes int64 (batch, codebooks, frames), whatever the chunks. Any number of samples: the last
    frame is filled up with zeros, as upstream does. TorchScript compiles the loop.
    """

    def __init__(self, codec: Any, max_frames: int = 0) -> None:
        """Args:
        codec: The genuine module, in eval mode.
        max_frames: Also encode recordings longer than upstream's tables, of this many frames.
        """
        super().__init__()
        self.samples_per_frame = samples_per_frame(codec)
        self.step: Any = EncoderStep(codec, max_frames)
        self.state_size = int(self.step.state_size)
        self.codebooks = len(self.step.quantizers)

    def forward(self, waveform: Tensor, chunk_frames: Tensor) -> Tensor:
        batch, samples, frame = waveform.shape[0], waveform.shape[1], self.samples_per_frame
        frames = (samples + frame - 1) // frame
        waveform = F.pad(waveform, (0, frames * frame - samples))
        chunk = int((chunk_frames.min() // batch).clamp(max=frames).clamp(min=1))
        state = torch.zeros(batch, self.state_size, device=waveform.device)
        codes = torch.zeros(batch, self.codebooks, 0, dtype=torch.int64, device=waveform.device)
        start = torch.zeros_like(chunk_frames[0, 0])
        for i in range((frames + chunk - 1) // chunk):
            part = waveform[:, i * chunk * frame : (i + 1) * chunk * frame]
            new, state = self.step(part, state, start)
            codes = torch.cat([codes, new], dim=2)
            start = start + chunk * frame
        return codes


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
    float32 (batch, new * samples_per_frame) in [-1, 1]. Before the frame numbered 0 there may be
    padding, so that windows with unequal histories fit into one batch; but before the first of the
    new ones there must be a frame, or nothing.

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
        begins = new_frames[:, :1] - (codes.shape[2] - new_frames.shape[1])
        positions = begins + self.count[:, : codes.shape[2]]
        # Padding has no number of its own; beyond the last position there must be an error.
        positions = torch.minimum(positions, new_frames.amax(1, keepdim=True)).clamp(min=0)
        z = self.latents(codes)
        if isinstance(self.transformer, WindowTransformer):  # a codec may do without
            z = self.transformer(z, positions=positions, missing=-begins)
        return z

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        new = new_frames.shape[1]
        # From a buffer, for that is on the device: a traced size is not, and clamp minds.
        history = torch.minimum(new_frames[:, :1, None], self.count[0, codes.shape[2] - new])
        x = self.hidden(codes, new_frames)
        for stage in self.stages:  # at the start of the audio there is less, and slices are short
            x = x[:, :, -(new * stage.rate + stage.context) :]
            if stage.context > stage.rate and stage.layer.context(0):
                # It may hear more than the one frame of history that there is: silence, if not.
                before = x.shape[2] - (history + new) * stage.rate
                place = torch.ones_like(x[:1, :1], dtype=torch.int64).cumsum(2)  # 1, 2, ...
                x = torch.where(place <= before, 0.0, x)
            x = stage.layer(x)
        return x[:, 0, -(new * self.samples_per_frame) :]
