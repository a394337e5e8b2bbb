"""The codec's layers by the operators of `engine/kernels/native`: (batch, time, channels).

Their weights are laid out for the machine that makes them, and rounded to 8 bits where
`engine.codec.int8` says so.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.int8 import Ranges
from engine.codec.layers import (
    CausalConv,
    CausalTransposedConv,
    ConvNeXt,
    Residual,
    Snake,
    UnsupportedCodecError,
    phases,
)
from engine.codec.transformer import TransformerLayer, WindowTransformer
from engine.kernels.convolution import ConvChain, FusedConv
from engine.kernels.norm import RMSNorm
from engine.kernels.rounding import rounded_convolution
from engine.kernels.transformer import FusedLayer, FusedLinear, FusedTransformer

Convolution = CausalConv | CausalTransposedConv


def fused_conv(
    layer: Convolution, snake: Snake | None, ranges: Ranges | None = None, after: int = 0
) -> FusedConv:
    """Fuse a convolution with the Snake before it.

    Args:
        layer: Of either kind.
        snake: What its inputs go through, if there is one.
        ranges: See `engine.codec.int8`; a layer that is not among them stays float32.
        after: Of a transposed convolution, see `LayerWindow`.
    """
    weight, bias, arguments = _plain(layer, after)
    if ranges is not None and layer in ranges:
        weight = rounded_convolution(weight, *ranges[layer])
    return FusedConv(weight, bias, None if snake is None else _factors(snake), **arguments)


def _plain(layer: Convolution, after: int) -> tuple[Any, Tensor, dict[str, int]]:
    """Weight (outputs, channels, taps), bias, and how outputs lie in time."""
    conv: Any = layer.conv
    weight, bias = conv.weight.detach(), conv.bias.detach()
    if isinstance(layer, CausalConv):
        return weight, bias, {"dilation": conv.dilation[0], "stride": conv.stride[0]}
    stride = layer.stride
    if layer.kernel % stride:
        raise UnsupportedCodecError(
            f"codec: kernel {layer.kernel} of stride {stride}, expected a multiple of it."
        )
    outputs = {"times": stride, "surplus": layer.surplus(after)}
    return phases(weight, stride), bias.repeat(stride), outputs


def _factors(snake: Snake) -> tuple[Tensor, Tensor]:
    alpha = snake.alpha.detach().flatten()
    return alpha, (alpha + 1e-9).reciprocal()  # as `Snake.forward` has it


def append_residual(chain: ConvChain, layer: Residual, ranges: Ranges | None = None) -> None:
    """Add a residual unit to a chain.

    Raises:
        UnsupportedCodecError: If it is unlike those of the codec.
    """
    block: Any = list(layer.block)
    kinds = [type(inner) for inner in block]
    if kinds != [Snake, CausalConv, Snake, CausalConv]:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise UnsupportedCodecError(f"codec: no kernel for a residual unit of {names}.")
    first, second = (fused_conv(block[i + 1], block[i], ranges) for i in (0, 2))
    if second.taps != 1:
        raise UnsupportedCodecError(
            f"codec: no kernel for a residual unit that ends with {second.taps} taps, expected 1."
        )
    chain.append_residual(first, second)


def fused_linear(linear: Any, int8: bool = False) -> FusedLinear:
    """Lay out a linear layer of torch."""
    bias = None if linear.bias is None else linear.bias.detach()
    return FusedLinear(linear.weight.detach(), bias, int8=int8, split=True)


class FusedConvNeXt(nn.Module):
    """`ConvNeXt`, with its context in front of its inputs."""

    taps: Tensor

    def __init__(self, layer: ConvNeXt, int8: bool = False) -> None:
        super().__init__()
        conv: Any = layer.depthwise.conv
        self.left = layer.depthwise.left
        self.register_buffer("taps", conv.weight.detach()[:, 0].t().contiguous())
        self.bias = nn.Parameter(conv.bias.detach())
        self.norm = layer.norm
        self.widen, self.narrow = fused_linear(layer.widen, int8), fused_linear(layer.narrow, int8)

    def forward(self, x: Tensor, audio_begin: list[int]) -> Tensor:
        x = x.clone()
        x[:, : max(audio_begin[0], 0)] = 0.0
        time = x.shape[1] - self.left
        y = self.bias.expand(x.shape[0], time, x.shape[2])
        for i, weight in enumerate(self.taps):
            y = y + x[:, i : i + time] * weight
        return self.narrow(F.gelu(self.widen(self.norm(y))), x[:, self.left :])


class FusedWindowTransformer(nn.Module):
    """`WindowTransformer`, with its cache handed in and out."""

    cos_sin: Tensor

    def __init__(self, transformer: WindowTransformer, int8: bool = False) -> None:
        super().__init__()
        self.project_in, self.project_out = (
            nn.Identity() if isinstance(linear, nn.Identity) else fused_linear(linear, int8=False)
            for linear in (transformer.project_in, transformer.project_out)
        )
        layers: Any = transformer.layers
        fused = [_fused_layer(layer, int8) for layer in layers]
        self.layers = FusedTransformer(fused, layers[0].attention_norm.eps)
        self.norm = transformer.norm
        self.register_buffer("cos_sin", transformer.cos_sin)
        first = layers[0].attention
        self.window = first.window
        # Of one row's cache, where it is full.
        self.cache_shape = [len(layers), 2, first.heads, self.window, first.head_dim]

    def forward(self, x: Tensor, begins: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """Transform the positions that follow those in the cache.

        Args:
            x: float32 (batch, time, dim).
            begins: int64 (batch,), the number of the first position in the cache; positions with a
                number below 0 are padding.
            cache: Keys and values, (batch, layers, 2, heads, positions, head_dim).

        Returns:
            The output, like x, and the cache for the next chunk, a window at most.
        """
        x, known = self.project_in(x), cache.shape[4]
        cache = F.pad(cache, (0, 0, 0, x.shape[1]))
        keys, values = cache.transpose(0, 1).unbind(2)
        past = torch.full_like(begins, known)
        x = self.layers(x, past, self.cos_sin, keys, values, begins, self.window)
        last = max(0, cache.shape[4] - self.window)
        return self.project_out(self.norm(x)), cache[:, :, :, :, last:]


def _fused_layer(layer: TransformerLayer, int8: bool) -> FusedLayer:
    """Queries, keys and values stay float, since they lose most by 8 bits."""
    attention: Any = layer.attention
    wqkv = attention.wqkv.weight.detach()
    if int8 and torch.ops.voicereel.has_units():
        wqkv = wqkv.bfloat16()  # beside 8 bits nothing is lost, and half the bytes are read
    gate_up = torch.cat([layer.gate.weight.detach(), layer.up.weight.detach()])
    return FusedLayer(
        FusedLinear(wqkv, split=True, **_norm(layer.attention_norm)),
        fused_linear(attention.wo, int8),
        FusedLinear(gate_up, int8=int8, split=True, **_norm(layer.ffn_norm)),
        FusedLinear(layer.down.weight.detach(), gated=True, int8=int8, split=True),
    )


def _norm(norm: RMSNorm) -> dict[str, Any]:
    return {"norm": norm.weight.detach(), "eps": norm.eps}
