"""The codec's layers, rewritten from the genuine modules so that they export and stream.

Each class takes the genuine module and computes the same numbers. Weight norm is folded into the
weights, and nothing freezes the batch or the time axis in a trace. With a `StreamState` a layer
takes the next chunk; from `context` the windows of `engine.codec.streaming` are derived.
Source: fish-speech 0.1.0, models/dac/modded_dac.py, rvq.py; descript-audio-codec 1.0.0.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.streaming import StreamState
from engine.codec.transformer import UnsupportedCodecError, WindowTransformer


def folded(genuine: Any) -> nn.Conv1d | nn.ConvTranspose1d:
    """Copy a convolution of either kind, with its weight norm multiplied in."""
    kind = nn.ConvTranspose1d if genuine.transposed else nn.Conv1d
    plain = kind(
        genuine.in_channels,
        genuine.out_channels,
        genuine.kernel_size,
        stride=genuine.stride,
        dilation=genuine.dilation,
        groups=genuine.groups,
        bias=genuine.bias is not None,
        device="meta",
    )
    plain.weight = nn.Parameter(genuine.weight.detach().clone())
    if genuine.bias is not None:
        plain.bias = nn.Parameter(genuine.bias.detach().clone())
    return plain


class CausalConv(nn.Module):
    """A convolution padded on the left only: (batch, channels, time) -> the same, / stride.

    Upstream also pads on the right to a multiple of the stride; the time axis here always is one.
    """

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.conv: Any = folded(genuine.conv)
        self.left = int(genuine.padding)
        self.state_size = self.conv.in_channels * self.left

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        if state is None:
            return self.conv(F.pad(x, (self.left, 0)))
        state.start = state.start // self.conv.stride[0]
        if self.left:
            x = state.prepended(x, (self.conv.in_channels, self.left), 2)
        return self.conv(x)

    def context(self, after: int) -> int:
        """Inputs before the first new one that `after` outputs before it hear (stride 1)."""
        return after + self.left


class CausalTransposedConv(nn.Module):
    """A transposed convolution that keeps no output from the future: time -> time * stride."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.conv: Any = folded(genuine.conv)
        self.stride = int(genuine.stride)
        self.kernel = int(genuine.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[..., : x.shape[-1] * self.stride]

    def context(self, after: int) -> int:
        return (after + self.kernel - 1) // self.stride

    def surplus(self, after: int) -> int:
        """Outputs, older than `after` asks for, of the inputs that are needed: whole strides."""
        return (self.context(after) - (self.kernel // self.stride - 1)) * self.stride - after


def phases(weight: Tensor, stride: int) -> Tensor:
    """A transposed convolution's weight as that of a plain one.

    Its output t * stride + r is a sum over taps n of weight[r + n * stride] * input[t - n]. So it
    is a plain convolution of kernel / stride taps whose outputs for all r lie side by side.

    Args:
        weight: (channels, outputs, kernel), the kernel a multiple of the stride.
        stride: Outputs for each input.

    Returns:
        (stride * outputs, channels, taps).
    """
    return weight.unflatten(2, (-1, stride)).flip(2).permute(3, 1, 0, 2).flatten(0, 1)


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, per channel."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.alpha = nn.Parameter(genuine.alpha.detach().clone())

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)

    def context(self, after: int) -> int:
        return after


class Residual(nn.Module):
    """x + block(x), of equal lengths because the block is causal."""

    def __init__(self, block: "CausalSequence") -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        return x + self.block(x, state)

    def context(self, after: int) -> int:
        return self.block.context(after)


class ConvNeXt(nn.Module):
    """Depthwise convolution, then a two-layer perceptron over channels, residual."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.depthwise = CausalConv(genuine.dwconv)
        self.norm: Any = copy.deepcopy(genuine.norm)
        self.widen = copy.deepcopy(genuine.pwconv1)
        self.narrow = copy.deepcopy(genuine.pwconv2)
        if genuine.gamma is not None:  # a scale per channel, folded into the last linear
            gamma = genuine.gamma.detach()
            self.narrow.weight.data.mul_(gamma[:, None])
            self.narrow.bias.data.mul_(gamma)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        y = self.norm(self.depthwise(x, state).transpose(1, 2))
        return x + self.narrow(F.gelu(self.widen(y))).transpose(1, 2)

    def context(self, after: int) -> int:
        return self.depthwise.context(after)


class Tanh(nn.Tanh):
    """Keeps the waveform in [-1, 1]."""

    def context(self, after: int) -> int:
        return after


class CausalSequence(nn.Sequential):
    """Layers in a row, over all of the audio or, with a state, over the next chunk of it."""

    def forward(self, input: Tensor, state: StreamState | None = None) -> Tensor:
        for layer in self:
            input = layer(input) if state is None else layer(input, state)
        return input

    def layers(self) -> Iterator[Any]:
        """Yield the layers in the order in which they run, those of inner sequences one by one."""
        for layer in self:
            yield from layer.layers() if isinstance(layer, CausalSequence) else (layer,)

    def context(self, after: int) -> int:
        """Inputs before the first new one that `after` outputs before it hear."""
        for layer in reversed(list(self.layers())):
            after = layer.context(after)
        return after


def rebuilt(genuine: Any, name: str = "codec") -> Any:
    """Rewrite one of the codec's modules, or a sequence of them, as the classes here."""
    kind = type(genuine).__name__
    if isinstance(genuine, nn.Identity):
        return CausalSequence()
    if kind in ("Sequential", "ModuleList"):
        return CausalSequence(*(rebuilt(m, f"{name}.{i}") for i, m in enumerate(genuine)))
    if kind == "ResidualUnit":
        return Residual(rebuilt(genuine.block, name))
    if kind in ("EncoderBlock", "DecoderBlock"):
        return rebuilt(genuine.block, name)
    if kind == "WindowLimitedTransformer":
        return WindowTransformer(genuine, name)
    simple = {
        "CausalConvNet": CausalConv,
        "CausalTransConvNet": CausalTransposedConv,
        "Snake1d": Snake,
        "ConvNeXtBlock": ConvNeXt,
    }
    if kind in simple:
        return simple[kind](genuine)
    if isinstance(genuine, nn.Tanh):
        return Tanh()
    raise UnsupportedCodecError(
        f"codec: {name} is a {kind}, expected one of upstream's causal layers. "
        "A codec built with causal: false cannot be streamed."
    )
