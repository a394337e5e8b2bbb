"""The codec's layers, rewritten from the genuine modules so that they export and stream.

Each class takes the genuine module and computes the same numbers, with weight norm folded, nothing
that freezes the batch or time axis in a trace.
Source: fish-speech 0.1.0, models/dac/modded_dac.py, rvq.py; descript-audio-codec 1.0.0.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.carried import Carried
from engine.codec.transformer import UnsupportedCodecError, WindowTransformer


def folded(genuine: Any) -> nn.Module:
    """A plain copy of a convolution with its weight norm, of either kind, multiplied in."""
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
        self.kept = self.conv.in_channels * self.left  # numbers carried between chunks

    def forward(self, x: Tensor, carried: Carried | None = None) -> Tensor:
        if carried is None:
            return self.conv(F.pad(x, (self.left, 0)))
        carried.start = carried.start // self.conv.stride[0]
        if self.left:
            x = carried.joined(x, (self.conv.in_channels, self.left), 2)
        return self.conv(x)

    def context(self, after: int) -> int:
        """Inputs to the left that `after` outputs to the left depend on (stride 1)."""
        return after + self.left


class CausalTransposedConv(nn.Module):
    """A transposed convolution that keeps no output from the future: time -> time * stride."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.conv = folded(genuine.conv)
        self.stride = int(genuine.stride)
        self.kernel = int(genuine.kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[..., : x.shape[-1] * self.stride]

    def context(self, after: int) -> int:
        return (after + self.kernel - 1) // self.stride


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, per channel."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.alpha = nn.Parameter(genuine.alpha.detach().clone())

    def forward(self, x: Tensor, carried: Carried | None = None) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)

    def context(self, after: int) -> int:
        return after


class Residual(nn.Module):
    """x + block(x), of equal lengths because the block is causal."""

    def __init__(self, block: "Chain") -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, carried: Carried | None = None) -> Tensor:
        return x + self.block(x, carried)

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

    def forward(self, x: Tensor, carried: Carried | None = None) -> Tensor:
        y = self.norm(self.depthwise(x, carried).transpose(1, 2))
        return x + self.narrow(F.gelu(self.widen(y))).transpose(1, 2)

    def context(self, after: int) -> int:
        return self.depthwise.context(after)


class Tanh(nn.Tanh):
    """Keeps the waveform in [-1, 1]."""

    def context(self, after: int) -> int:
        return after


class Chain(nn.Sequential):
    """Layers in a row; of all the audio, or, with what is carried, of the next chunk of it."""

    def forward(self, input: Tensor, carried: Carried | None = None) -> Tensor:
        for layer in self:
            input = layer(input) if carried is None else layer(input, carried)
        return input

    def layers(self) -> Iterator[Any]:
        """Those of chains within it one by one."""
        for layer in self:
            yield from layer.layers() if isinstance(layer, Chain) else (layer,)

    def context(self, after: int) -> int:
        """Inputs to the left of the first output, given that `after` more outputs are needed."""
        for layer in reversed(list(self.layers())):
            after = layer.context(after)
        return after


def rebuilt(genuine: Any, name: str = "codec") -> Any:
    """The exportable twin of one of the codec's modules, or of a sequence of them."""
    kind = type(genuine).__name__
    if isinstance(genuine, nn.Identity):
        return Chain()
    if kind in ("Sequential", "ModuleList"):
        return Chain(*(rebuilt(m, f"{name}.{i}") for i, m in enumerate(genuine)))
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
