"""The decoder for compilation ahead of time: convolutions over (batch, time, channels) in memory.

The same numbers as `codec_graphs.DecoderGraph`, in the form a CPU compiler does best on:
convolutions as two-dimensional ones of height 1 in channels-last order, a transposed convolution
of kernel 2s as a plain one of kernel 2 to s times the channels, nothing padded. Every layer takes
exactly its context and the new frames, so that all sizes are linear in the number of new frames,
which torch.export can follow; where the context reaches back before the first frame, zeros are
put in its place.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.graphs import DecoderGraph
from engine.codec.layers import (
    CausalConv,
    CausalTransposedConv,
    ConvNeXt,
    Residual,
    Snake,
    Tanh,
    UnsupportedCodecError,
)


class ChannelsLastDecoder(nn.Module):
    """codes, new_frames -> audio, as `DecoderGraph` has it."""

    def __init__(self, graph: DecoderGraph, dtype: torch.dtype = torch.float32) -> None:
        """Args:
        graph: Its weights are shared where their order can stay.
        dtype: Of the convolutions; all before them stays float32.
        """
        super().__init__()
        self.decoder = graph
        self.dtype = dtype
        after, layers = 0, []
        for stage in reversed(graph.stages):
            layers.append(_twin(stage.layer, after))
            after = stage.context
        self.layers = nn.ModuleList(reversed(layers)).to(dtype)

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        history = codes.shape[2] - new_frames.shape[1]
        z = F.pad(self.decoder.hidden(codes, new_frames), (self.decoder.context_frames, 0))
        x = z[:, :, None, history:].to(self.dtype, memory_format=torch.channels_last)
        for stage, layer in zip(self.decoder.stages, self.layers, strict=True):
            x = layer(x, stage.context - history * stage.rate)
        return x.flatten(1).float()


def convolution(conv: Any) -> nn.Conv2d:
    """A one-dimensional one as a two-dimensional one of height 1."""
    return _height_one(conv.weight, conv.bias, conv.stride[0], conv.dilation[0], conv.groups)


def _height_one(
    weight: Tensor, bias: Tensor, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """From a one-dimensional weight (out, in / groups, kernel), without padding."""
    plain = nn.Conv2d(
        weight.shape[1] * groups,
        weight.shape[0],
        (1, weight.shape[2]),
        stride=(1, stride),
        dilation=(1, dilation),
        groups=groups,
        device="meta",
    )
    weight = weight.detach()[:, :, None].contiguous(memory_format=torch.channels_last)
    plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias.detach().clone())
    return plain


def _masked(x: Tensor, hidden: Any) -> Tensor:
    """Zeros instead of the first `hidden` positions, which lie before the first frame."""
    return torch.where(torch.arange(x.shape[3], device=x.device) >= hidden, x, 0.0)


class ConvTwin(nn.Module):
    """Of `CausalConv`."""

    def __init__(self, layer: CausalConv) -> None:
        super().__init__()
        self.left = layer.left
        self.conv = convolution(layer.conv)

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        return self.conv(_masked(x, hidden) if self.left else x)


class TransposedTwin(nn.Module):
    """Of `CausalTransposedConv`.

    Output t * stride + r is a sum over taps n of weight[r + n * stride] * input[t - n].
    """

    def __init__(self, layer: CausalTransposedConv, after: int) -> None:
        super().__init__()
        conv: Any = layer.conv
        weight, stride = conv.weight.detach(), layer.stride  # weight (in, out, kernel)
        taps, rest = divmod(layer.kernel, stride)
        if rest:
            raise UnsupportedCodecError(
                f"codec: kernel {layer.kernel} of stride {stride}, expected a multiple of it."
            )
        phases = weight.unflatten(2, (taps, stride)).flip(2).permute(3, 1, 0, 2).flatten(0, 1)
        self.conv = _height_one(phases, conv.bias.detach().repeat(stride))
        self.stride, self.channels = stride, weight.shape[1]
        # Of the outputs that the inputs give, the first are older than what is needed.
        self.surplus = (layer.context(after) - (taps - 1)) * stride - after

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        phases = self.conv(_masked(x, hidden)).permute(0, 2, 3, 1)
        y = phases.reshape(x.shape[0], 1, phases.shape[2] * self.stride, self.channels)
        return y.permute(0, 3, 1, 2)[..., self.surplus :]


class SnakeTwin(nn.Module):
    """Of `Snake`."""

    def __init__(self, layer: Snake) -> None:
        super().__init__()
        self.alpha = nn.Parameter(layer.alpha.detach()[..., None].clone())
        self.inverse = nn.Parameter((self.alpha.detach() + 1e-9).reciprocal())

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        return x + self.inverse * torch.sin(self.alpha * x).square()


class ResidualTwin(nn.Module):
    """Of `Residual`."""

    def __init__(self, layer: Residual) -> None:
        super().__init__()
        self.left = layer.context(0)
        self.block = nn.ModuleList(_twin(inner, 0) for inner in layer.block)

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        y = x
        for layer in self.block:
            y = layer(y, hidden)
        return x[..., self.left :] + y


class ConvNeXtTwin(nn.Module):
    """Of `ConvNeXt`."""

    def __init__(self, layer: ConvNeXt) -> None:
        super().__init__()
        self.depthwise = ConvTwin(layer.depthwise)
        # Copies: a change of dtype is not for the graph they come from.
        self.norm, self.widen, self.narrow = map(
            copy.deepcopy, (layer.norm, layer.widen, layer.narrow)
        )

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        y = self.norm(self.depthwise(x, hidden).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.widen(y))).permute(0, 3, 1, 2)
        return x[..., self.depthwise.left :] + y


class TanhTwin(nn.Module):
    """Of `Tanh`."""

    def forward(self, x: Tensor, hidden: Any) -> Tensor:
        return torch.tanh(x)


def _twin(layer: nn.Module, after: int) -> nn.Module:
    """The channels-last form of one layer, after which `after` inputs of context are needed."""
    match layer:
        case CausalTransposedConv():
            return TransposedTwin(layer, after)
        case CausalConv():
            return ConvTwin(layer)
        case Snake():
            return SnakeTwin(layer)
        case Residual():
            return ResidualTwin(layer)
        case ConvNeXt():
            return ConvNeXtTwin(layer)
        case Tanh():
            return TanhTwin()
    raise UnsupportedCodecError(f"codec: no channels-last form of {type(layer).__name__}.")
