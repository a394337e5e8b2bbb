"""The codec's layers, rewritten from the genuine modules so that they export and stream.

Each class takes the genuine module and computes the same numbers, with weight norm folded, nothing
that freezes the batch or time axis in a trace, and attention in blocks: memory linear in time.
Source: fish-speech 0.1.0, models/dac/modded_dac.py, rvq.py; descript-audio-codec 1.0.0.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.layers import RMSNorm


class UnsupportedCodecError(ValueError):
    """The checkpoint's codec has a part that cannot be streamed exactly."""


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
        self.conv = folded(genuine.conv)
        self.left = int(genuine.padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (self.left, 0)))

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

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)

    def context(self, after: int) -> int:
        return after


class Residual(nn.Module):
    """x + block(x), of equal lengths because the block is causal."""

    def __init__(self, block: "Chain") -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)

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

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).transpose(1, 2))
        return x + self.narrow(F.gelu(self.widen(y))).transpose(1, 2)

    def context(self, after: int) -> int:
        return self.depthwise.context(after)


class Tanh(nn.Tanh):
    """Keeps the waveform in [-1, 1]."""

    def context(self, after: int) -> int:
        return after


class Chain(nn.Sequential):
    """Layers in a row."""

    def layers(self) -> Iterator[Any]:
        """Those of chains within it one by one."""
        for layer in self:
            yield from layer.layers() if isinstance(layer, Chain) else (layer,)

    def context(self, after: int) -> int:
        """Inputs to the left of the first output, given that `after` more outputs are needed."""
        for layer in reversed(list(self.layers())):
            after = layer.context(after)
        return after


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotary position embedding over interleaved pairs, in float32.

    Args:
        x: (batch, time, heads, head_dim).
        cos_sin: float32 (batch or 1, time, head_dim / 2, 2).

    Returns:
        Like x.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos_sin[..., None, :, 0], cos_sin[..., None, :, 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)


class WindowAttention(nn.Module):
    """Causal self-attention over the last `window` positions.

    Queries go in blocks of `window`; each block sees itself and the block before it, which is all
    that its window can reach. Exact, and linear in time.
    """

    def __init__(self, genuine: Any, window: int) -> None:
        super().__init__()
        self.wqkv = copy.deepcopy(genuine.wqkv)
        self.wo = copy.deepcopy(genuine.wo)
        self.heads = int(genuine.n_head)
        self.head_dim = int(genuine.head_dim)
        self.window = window

    def blocks(self, x: Tensor, count: int) -> Tensor:
        """(batch, time, heads, head_dim) -> (batch, heads, count, window, head_dim), padded."""
        x = F.pad(x, (0, 0, 0, 0, 0, self.window - 1))[:, : count * self.window]
        return x.unflatten(1, (-1, self.window)).permute(0, 3, 1, 2, 4)

    def with_block_before(self, x: Tensor) -> Tensor:
        """(..., count, window, head_dim) -> (..., count, 2 * window, head_dim)."""
        before = F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1]
        return torch.cat([before, x], dim=3)

    def forward(self, x: Tensor, cos_sin: Tensor, mask: Tensor) -> Tensor:
        """X (batch, time, dim), cos_sin as in `rotate`, mask as in `WindowTransformer.mask`."""
        time, count = x.shape[1], mask.shape[0]
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q = self.blocks(rotate(q, cos_sin), count)
        k, v = self.blocks(rotate(k, cos_sin), count), self.blocks(v, count)
        k, v = self.with_block_before(k), self.with_block_before(v)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        y = y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :time].flatten(2)
        return self.wo(y)


class WindowTransformer(nn.Module):
    """Causal transformer with window-limited attention: (batch, channels, time) -> the same."""

    count: Tensor
    cos_sin: Tensor

    def __init__(self, genuine: Any, name: str) -> None:
        super().__init__()
        if genuine.window_size is None or not genuine.causal:
            raise UnsupportedCodecError(
                f"codec: {name} has window_size {genuine.window_size} and causal "
                f"{genuine.causal}, expected a causal window: without one no chunk can be exact."
            )
        if genuine.config.pos_embed_type != "rope":
            raise UnsupportedCodecError(
                f"codec: {name} has pos_embed_type {genuine.config.pos_embed_type}, expected rope."
            )
        self.project_in = copy.deepcopy(genuine.input_proj)
        self.project_out = copy.deepcopy(genuine.output_proj)
        self.layers = nn.ModuleList(
            TransformerLayer(layer, genuine.window_size) for layer in genuine.layers
        )
        self.norm = RMSNorm(genuine.norm.weight, genuine.norm.eps)
        self.reach = len(genuine.layers) * (genuine.window_size - 1)  # positions to the left
        # Upstream rounds its table to bfloat16; parity needs the rounded values.
        self.register_buffer("cos_sin", genuine.freqs_cis.detach().float().clone())
        self.window = int(genuine.window_size)
        self.register_buffer("count", torch.arange(2 * self.window), persistent=False)

    def mask(self, blocks: int) -> Tensor:
        """Keys of its own and the block before that each query of each block may see.

        bool (blocks, window, 2 * window). Made in the graph, so that no table is in the file.
        """
        key, query = self.count[None], self.count[self.window :, None]
        visible = (key <= query) & (key > query - self.window)
        first = visible & (key >= self.window)  # nothing lies before the first block
        return torch.cat([first[None], visible[None].expand(blocks, -1, -1)])[:blocks]

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """Args: x, and int64 (batch, time) absolute positions, or None to start from 0."""
        x = self.project_in(x.transpose(1, 2))
        time = x.shape[1]
        cos_sin = self.cos_sin[:time][None] if positions is None else self.cos_sin[positions]
        mask = self.mask((time + self.window - 1) // self.window)
        for layer in self.layers:
            x = layer(x, cos_sin, mask)
        return self.project_out(self.norm(x)).transpose(1, 2)


class TransformerLayer(nn.Module):
    """Pre-norm attention and gated perceptron; layer scales are folded into the last weights."""

    def __init__(self, genuine: Any, window: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(genuine.attention_norm.weight, genuine.attention_norm.eps)
        self.attention = WindowAttention(genuine.attention, window)
        self.ffn_norm = RMSNorm(genuine.ffn_norm.weight, genuine.ffn_norm.eps)
        self.gate = copy.deepcopy(genuine.feed_forward.w1)
        self.up = copy.deepcopy(genuine.feed_forward.w3)
        self.down = copy.deepcopy(genuine.feed_forward.w2)
        scale = genuine.attention_layer_scale.gamma.detach()
        self.attention.wo.weight.data.mul_(scale[:, None])
        self.down.weight.data.mul_(genuine.ffn_layer_scale.gamma.detach()[:, None])

    def forward(self, x: Tensor, cos_sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos_sin, mask)
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


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
