"""The decoder's convolutions in 8-bit integers, for CPUs whose AVX-512 has VNNI.

Every convolution right behind a Snake but the last, which are nearly all of the cost: activations
are rounded to 0..255 (asymmetric), weights to -127..127 for each output channel. Steps and zeros
are constants, found at export by decoding examples, and sums of integers are exact: so audio
depends neither on the window nor on who shares the batch. So it is with the linear layers, whose
rows have a step each. All else stays float32, and so do queries, keys and values, which lose most.
"""

import copy
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from engine.codec.channels_last import (
    ChannelsLastDecoder,
    ConvNeXtTwin,
    ResidualTwin,
    SnakeTwin,
)
from engine.codec.graphs import DecoderGraph, quantizers
from engine.codec.transformer import TransformerLayer, WindowAttention

VOICES = Path(__file__).resolve().parents[2] / "assets" / "voices"
_LARGEST = 255
_ROOM = 1.05  # for what is louder than the speech that was decoded
_RANDOM_FRAMES = 64
_TIME, _ROWS = 4096, 64  # the lengths that weights are laid out for
_MIDDLE = 128  # stands for zero

_LINEARS = {
    WindowAttention: ("wo",),
    TransformerLayer: ("gate", "up", "down"),
    ConvNeXtTwin: ("widen", "narrow"),
}


class Int8Conv(nn.Module):
    """A convolution over (batch, channels, 1, time), float32 in channels-last order."""

    per_step: Tensor
    scale: Tensor
    zeros: Tensor
    bias: Tensor | None
    weight: Tensor

    def __init__(self, conv: nn.Conv2d, low: Tensor, high: Tensor) -> None:
        """Args:
        conv: With one group, without padding.
        low: float32 (channels,), the least that each input channel has, 0 or below.
        high: Likewise the largest, 0 or above.
        """
        super().__init__()
        weight = conv.weight.detach()
        # The louder channels get larger steps, at the cost of their weights' range (SmoothQuant).
        loudness = torch.maximum(high, -low).clamp(min=1e-6)
        balance = (loudness / weight.abs().amax(dim=(0, 2, 3)).clamp(min=1e-6)).sqrt()
        least, most = (low / balance).min(), (high / balance).max()
        step = balance * ((most - least).clamp(min=1e-6) / _LARGEST)
        weight = weight * step[:, None, None]
        scale = weight.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / 127
        self.zero = int((-least / (most - least).clamp(min=1e-6) * _LARGEST).round())
        # Stride, padding, dilation, groups.
        self.geometry: Any = [1, 1], [0, 0], list(conv.dilation), 1
        self.register_buffer("per_step", step.reciprocal()[:, None, None])
        self.register_buffer("scale", scale)
        self.register_buffer("zeros", torch.zeros(len(scale), dtype=torch.int64))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().clone())
        rounded = (weight / scale[:, None, None, None]).round().to(torch.int8)
        self.register_buffer("weight", rounded.contiguous())

    def forward(self, x: Tensor) -> Tensor:
        x = (x * self.per_step + self.zero).round().clamp(0, _LARGEST).to(torch.uint8)
        return self.convolved(x, self.packed())

    def packed(self) -> Tensor:
        """The weights as oneDNN wants them."""
        ops: Any = torch.ops.onednn
        shape = [1, self.weight.shape[1], 1, _TIME]
        return ops.qconv_prepack(self.weight, self.scale, 1.0, self.zero, *self.geometry, shape)

    def convolved(self, x: Tensor, packed: Tensor) -> Tensor:
        """Of the steps in x, uint8 like the input: float32."""
        ops: Any = torch.ops.onednn
        weights = packed, self.scale, self.zeros, self.bias
        given = 1.0, 0, torch.float32, "none", [], ""
        return ops.qconv_pointwise(x, 1.0, self.zero, *weights, *self.geometry, *given)


class Int8Linear(nn.Module):
    """A linear layer over rows (..., features), float32, each with a step of its own."""

    scale: Tensor
    zeros: Tensor
    weight: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("zeros", torch.zeros(len(scale), dtype=torch.int64))
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        ops: Any = torch.ops.onednn
        rows = x.flatten(0, -2)
        step = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        rounded = (rows / step + _MIDDLE).round().clamp(0, _LARGEST).to(torch.uint8)
        packed = ops.qlinear_prepack(self.weight, [_ROWS, self.weight.shape[1]])
        weights = packed, self.scale, self.zeros, None
        given = 1.0, 0, torch.float32, "none", [], ""
        y = ops.qlinear_pointwise(rounded, 1.0, _MIDDLE, *weights, *given) * step
        y = y if self.bias is None else y + self.bias
        return y.unflatten(0, x.shape[:-1])


def machine_fault() -> str | None:
    """Why 8 bits are of no use on this machine, or None."""
    return None if torch.cpu._is_vnni_supported() else "this CPU has no AVX-512 VNNI"


@torch.no_grad()
def example_codes(codec: Any) -> list[Tensor]:
    """What steps are found with: int64 (1, codebooks, frames) each.

    What the genuine codec makes of the recordings in assets/voices, and random codes, which go
    further than any speech: a voice louder or higher than those two must not be cut off.
    """
    # At another rate than the codec's they are just other voices.
    recordings = (
        soundfile.read(path, dtype="float32")[0] for path in sorted(VOICES.glob("*.flac"))
    )
    speech = [codec.encode(torch.from_numpy(r)[None, None])[0] for r in recordings]
    generator = torch.Generator().manual_seed(0)
    sizes = [int(q.codebook_size) for q in quantizers(codec)]
    rows = [torch.randint(0, n, (1, _RANDOM_FRAMES), generator=generator) for n in sizes]
    return [*speech, torch.stack(rows, dim=1)]


@torch.no_grad()
def int8_decoder(graph: DecoderGraph, examples: list[Tensor]) -> ChannelsLastDecoder:
    """The decoder in 8 bits.

    Args:
        graph: In float32.
        examples: Codes to be decoded, int64 (1, codebooks, frames).
    """
    graph = copy.deepcopy(graph)  # which the float32 decoder shares
    ranges: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def observe(conv: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = (f(inputs[0], dim=(0, 2, 3)) for f in (torch.amin, torch.amax))
        known = ranges.get(conv, (torch.zeros_like(low), torch.zeros_like(high)))
        ranges[conv] = torch.minimum(known[0], low), torch.maximum(known[1], high)

    decoder = ChannelsLastDecoder(graph).eval()
    layers = list(_behind_snakes(decoder.layers))
    hooks = [layer.conv.register_forward_pre_hook(observe) for layer in layers]
    for codes in examples:
        decoder(codes, torch.arange(codes.shape[2])[None])
    for hook in hooks:
        hook.remove()
    for layer in layers:
        low, high = ranges[layer.conv]
        layer.conv = Int8Conv(layer.conv, _ROOM * low, _ROOM * high)
    for layer in decoder.modules():
        for name in _LINEARS.get(type(layer), ()):
            setattr(layer, name, Int8Linear(getattr(layer, name)))
    return decoder


def _behind_snakes(layers: nn.ModuleList) -> Iterator[Any]:
    """Layers whose convolution takes what a Snake gives, but for the last, to one channel."""
    every: Any = chain(*(y.block if isinstance(y, ResidualTwin) else (y,) for y in layers))
    for before, layer in pairwise(every):
        if isinstance(before, SnakeTwin) and layer.conv.out_channels > 1:
            yield layer
