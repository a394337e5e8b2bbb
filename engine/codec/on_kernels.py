"""The decoder by the operators of `engine/kernels/native`: (batch, time, channels), a layer a call.

The same numbers as `codec_channels_last.ChannelsLastDecoder`, from which it is made. Its weights
are laid out for the machine that makes it. Audio depends neither on the window nor on who shares
the batch, to the last bit: every number is a sum in one order, and of integers an exact one.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.channels_last import (
    ChannelsLastDecoder,
    ConvNeXtTwin,
    ConvTwin,
    ResidualTwin,
    SnakeTwin,
    TanhTwin,
    TransposedTwin,
)
from engine.codec.int8 import Int8Conv, Int8Linear
from engine.codec.layers import UnsupportedCodecError
from engine.codec.transformer import TransformerLayer, WindowTransformer
from engine.kernels.norm import RMSNorm
from engine.kernels.transformer import KernelLayer, Layers, Product, split_panels

_PANEL = 32  # outputs, as in rows.h
_NARROW = 1 << 20  # numbers of a layer that runs in one pass with its neighbours
_BYTES = 64  # of inputs that matrix units take at a time


class KernelConv(nn.Module):
    """A convolution and the Snake before it, as `convolve` and `chain` want them."""

    def __init__(self, conv: Any, snake: SnakeTwin | None) -> None:
        """Args:
        conv: `nn.Conv2d` of height 1 without padding, then computed in pairs of bfloat16 where
            there are matrix units and in float32 elsewhere; or `Int8Conv`.
        snake: What its inputs go through.
        """
        super().__init__()
        weight = conv.weight.detach()[:, :, 0]
        self.outputs, channels, self.taps = weight.shape
        is_int8 = isinstance(conv, Int8Conv)
        self.dilation = int(conv.geometry[2][1] if is_int8 else conv.dilation[1])
        self.stride = 1 if is_int8 else int(conv.stride[1])
        wide = -self.outputs % _PANEL
        in_pairs = not is_int8 and torch.ops.voicereel.has_units()
        padding = -channels % (_BYTES if is_int8 else _PANEL)
        before = torch.zeros(3, channels)
        before[2] = 1.0
        if snake is not None:
            before[0] = snake.alpha.detach().flatten() / math.pi
            before[1] = snake.inverse.detach().flatten()
        self.zero, scale = 0.0, torch.ones(self.outputs)
        columns = torch.zeros(self.outputs, dtype=torch.int32)
        dot = 1
        if is_int8:
            self.zero, scale, dot = float(conv.zero), conv.scale, 4
            before[2] = conv.per_step.flatten()
            columns = weight.sum(dim=(1, 2), dtype=torch.int32) * conv.zero
        bias = torch.zeros(self.outputs) if conv.bias is None else conv.bias.detach()
        weight = F.pad(weight, (0, 0, 0, padding, 0, wide)).transpose(1, 2).flatten(1)
        if in_pairs:
            panels = split_panels(weight)
        else:
            panels = weight.view(-1, _PANEL, weight.shape[1] // dot, dot).transpose(1, 2)
        self.register_buffer("before", F.pad(before, (0, padding)))
        self.register_buffer("panels", panels.contiguous())
        self.register_buffer("columns", F.pad(columns, (0, wide)))
        self.register_buffer("after", F.pad(torch.stack([scale, bias]), (0, wide)))

    def forward(self, x: Tensor, hidden: int) -> Tensor:
        """float32 (batch, time, channels) -> (batch, time - context, outputs)."""
        return torch.ops.voicereel.convolve(
            *(x, self.before, self.panels, self.columns, self.after),
            *(self.outputs, self.taps, self.dilation, self.stride, self.zero, hidden),
        )


class Conv(nn.Module):
    """With what turns its outputs into more times than one, if it is a transposed one."""

    def __init__(self, layer: Any, snake: SnakeTwin | None) -> None:
        super().__init__()
        self.conv = KernelConv(layer.conv, snake)
        is_transposed = isinstance(layer, TransposedTwin)
        self.stride = int(layer.stride) if is_transposed else 1
        self.surplus = int(layer.surplus) if is_transposed else 0

    def forward(self, x: Tensor, hidden: list[int]) -> Tensor:
        y = self.conv(x, hidden[0])
        return y.view(y.shape[0], y.shape[1] * self.stride, -1)[:, self.surplus :]


class Chain(nn.Module):
    """Convolutions and residual units, one behind the other, in one pass."""

    shapes: list[int]  # as `chain` wants them
    zeros: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.shapes, self.zeros, self.outputs = [], [], 0

    def add(self, layer: Any, snake: SnakeTwin | None = None) -> None:
        """Behind the others.

        Raises:
            UnsupportedCodecError: If it is a residual unit unlike those of the codec.
        """
        if not isinstance(layer, ResidualTwin):
            conv = Conv(layer, snake)
            self._add(conv.conv, conv.stride, conv.surplus)
            return
        kinds = [type(inner) for inner in layer.block]
        if kinds[::2] != [SnakeTwin, SnakeTwin] or len(kinds) != 4:
            raise UnsupportedCodecError(f"codec: no kernel for a residual unit of {kinds}.")
        block: Any = layer.block
        self._add(KernelConv(block[1].conv, block[0]))
        last = KernelConv(block[3].conv, block[2])
        if last.taps != 1:
            raise UnsupportedCodecError("codec: no kernel for a residual unit that ends wide.")
        self._add(last, is_second=True)

    def _add(
        self, conv: KernelConv, times: int = 1, surplus: int = 0, is_second: bool = False
    ) -> None:
        self.convs.append(conv)
        self.shapes += [conv.outputs, conv.taps, conv.dilation, times, surplus, int(is_second)]
        self.zeros.append(conv.zero)
        self.outputs = conv.outputs // times

    def forward(self, x: Tensor, hidden: list[int]) -> Tensor:
        """Hidden: of each layer, the first of its inputs that lie before the first frame."""
        return torch.ops.voicereel.chain(
            x,
            [conv.before for conv in self.convs],
            [conv.panels for conv in self.convs],
            [conv.columns for conv in self.convs],
            [conv.after for conv in self.convs],
            *(self.shapes, self.zeros, hidden),
        )


def _is_int8(linear: nn.Module) -> bool:
    return isinstance(linear, Int8Linear)


def _weight(linear: Any) -> Tensor:
    """float32."""
    weight = linear.weight.detach()
    return weight * linear.scale[:, None] if _is_int8(linear) else weight


def _product(linear: Any, norm: RMSNorm | None = None) -> Product:
    """Of the same precision; its inputs normed."""
    bias = None if linear.bias is None else linear.bias.detach()
    before = (None, 0.0) if norm is None else (norm.weight.detach(), norm.eps)
    return Product(
        _weight(linear), bias, before[0], eps=before[1], int8=_is_int8(linear), split=True
    )


class ConvNeXt(nn.Module):
    """Of `ConvNeXtTwin`."""

    taps: Tensor

    def __init__(self, layer: ConvNeXtTwin) -> None:
        super().__init__()
        conv: Any = layer.depthwise.conv
        self.left = layer.depthwise.left
        self.register_buffer("taps", conv.weight.detach()[:, 0, 0].t().contiguous())
        self.bias = nn.Parameter(conv.bias.detach())
        self.norm = layer.norm
        self.widen, self.narrow = _product(layer.widen), _product(layer.narrow)

    def forward(self, x: Tensor, hidden: list[int]) -> Tensor:
        x = x.clone()
        x[:, : max(hidden[0], 0)] = 0.0
        time = x.shape[1] - self.left
        y = self.bias.expand(x.shape[0], time, x.shape[2])
        for i, weight in enumerate(self.taps):
            y = y + x[:, i : i + time] * weight
        return self.narrow(F.gelu(self.widen(self.norm(y))), x[:, self.left :])


class _Tanh(nn.Module):
    def forward(self, x: Tensor, hidden: list[int]) -> Tensor:
        return torch.tanh(x)


def _transformer_layer(layer: TransformerLayer) -> KernelLayer:
    attention, int8 = layer.attention, _is_int8(layer.gate)
    weight = _weight(attention.wqkv)
    if int8 and torch.ops.voicereel.has_units():
        weight = weight.bfloat16()  # beside 8 bits nothing is lost, and half is to be read
    norms = [
        {"norm": norm.weight.detach(), "eps": norm.eps, "split": True}
        for norm in (layer.attention_norm, layer.ffn_norm)
    ]
    return KernelLayer(
        Product(weight, **norms[0]),
        _product(attention.wo),
        Product(torch.cat([_weight(layer.gate), _weight(layer.up)]), int8=int8, **norms[1]),
        Product(_weight(layer.down), gated=True, int8=int8, split=True),
    )


class Transformer(nn.Module):
    """`WindowTransformer`: (batch, time, dim) -> the same."""

    cos_sin: Tensor

    def __init__(self, transformer: WindowTransformer) -> None:
        super().__init__()
        self.project_in, self.project_out = (
            nn.Identity() if isinstance(linear, nn.Identity) else _product(linear)
            for linear in (transformer.project_in, transformer.project_out)
        )
        layers: Any = transformer.layers
        self.layers = Layers(map(_transformer_layer, layers), layers[0].attention_norm.eps)
        self.norm = transformer.norm
        self.register_buffer("cos_sin", transformer.cos_sin)
        first = layers[0].attention
        self.window = first.window
        # Keys and values that are carried from chunk to chunk, of each row.
        self.extents = [len(layers), 2, first.heads, self.window, first.head_dim]

    def forward(self, x: Tensor, begins: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
        x: Positions that follow those before.
        begins: int64 (batch,), what the first of those before is called; less than 0: it is none.
        before: Keys and values, (batch, layers, 2, heads, positions, head_dim).

        Returns:
            The output, and what lies before the next chunk, a window at most.
        """
        x, kept = self.project_in(x), before.shape[4]
        cache = F.pad(before, (0, 0, 0, x.shape[1]))
        keys, values = cache.transpose(0, 1).unbind(2)
        past = torch.full_like(begins, kept)
        x = self.layers(x, past, self.cos_sin, keys, values, begins, self.window)
        last = max(0, cache.shape[4] - self.window)
        return self.project_out(self.norm(x)), cache[:, :, :, :, last:]


class KernelDecoder(nn.Module):
    """codes, new_frames -> audio, as `DecoderGraph` has it."""

    largest: Tensor
    offset: Tensor
    rates: list[list[int]]  # of what each layer is made of
    contexts: list[list[int]]

    def __init__(self, decoder: ChannelsLastDecoder) -> None:
        super().__init__()
        graph = decoder.decoder
        self.register_buffer("largest", graph.largest)
        self.register_buffer("offset", graph.offset)
        self.codebooks = nn.Embedding.from_pretrained(graph.codebooks.detach())
        self.project = _product(graph.project)
        is_one = isinstance(graph.transformer, WindowTransformer)  # a codec may do without
        self.transformer = Transformer(graph.transformer) if is_one else None
        self.extents = [0, 2, 1, 0, 1] if self.transformer is None else self.transformer.extents
        self.context_frames = graph.context_frames
        self.layers = nn.ModuleList()
        self.rates, self.contexts = [], []
        snake, was_narrow = None, False
        for stage, layer in zip(graph.stages, decoder.layers, strict=True):
            if isinstance(layer, SnakeTwin):
                snake = layer
                continue
            is_narrow = _is_narrow(layer)
            if is_narrow and was_narrow:
                chain: Any = self.layers[-1]
                chain.add(layer, snake)
            else:
                self.layers.append(_layer(layer, snake))
                self.rates.append([])
                self.contexts.append([])
            snake, was_narrow = None, is_narrow
            self.rates[-1].append(stage.rate)
            self.contexts[-1].append(stage.context)

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        history = codes.shape[2] - new_frames.shape[1]
        return self.resume(codes, new_frames, history, *self.begin(codes.shape[0]))[0]

    @torch.jit.export
    def begin(self, rows: int) -> tuple[Tensor, Tensor]:
        """What `resume` knows where nothing has been decoded."""
        layers, two, heads, _, head_dim = self.extents
        before = torch.empty((rows, layers, two, heads, 0, head_dim))
        return before, torch.empty((rows, 0, self.project.outputs))

    @torch.jit.export
    def resume(
        self, codes: Tensor, new_frames: Tensor, history: int, before: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Go on behind what has been decoded.

        Args:
            codes: int64 (batch, codebooks, frames), all that are not in `before`.
            new_frames: int64 (batch, new), the numbers of the last of them.
            history: Frames before the new ones, wherever they are.
            before: The transformer's keys and values, see `Transformer`.
            context: What the transformer gave at the last frames of these.

        Returns:
            Audio (batch, samples), and `before` and `context` for the frames behind.
        """
        begins = new_frames[:, 0] - (codes.shape[2] - new_frames.shape[1]) - before.shape[4]
        codes = codes[:, : self.largest.shape[1]].clamp(min=0)
        codes = torch.minimum(codes, self.largest) + self.offset
        x = self.project(self.codebooks(codes.transpose(1, 2)).flatten(2))
        if self.transformer is not None:
            x, before = self.transformer(x, begins, before)
        x = torch.cat([context, x], 1)
        context = x[:, max(0, x.shape[1] - self.context_frames) :]
        missing = self.context_frames + new_frames.shape[1] - x.shape[1]
        x = F.pad(x, (0, 0, missing, 0))  # or less than nothing: cut off
        for i, layer in enumerate(self.layers):
            hidden: list[int] = []
            for j in range(len(self.rates[i])):
                hidden.append(self.contexts[i][j] - history * self.rates[i][j])
            x = layer(x, hidden)
        return x.flatten(1), before, context


def _is_narrow(layer: nn.Module) -> bool:
    """Whether its weights leave room in a core's cache for what passes through."""
    if isinstance(layer, ResidualTwin):
        return _is_narrow(layer.block[1])
    return isinstance(layer, ConvTwin | TransposedTwin) and layer.conv.weight.numel() <= _NARROW


def _layer(layer: Any, snake: SnakeTwin | None) -> nn.Module:
    if isinstance(layer, ResidualTwin) or _is_narrow(layer):
        chain = Chain()
        chain.add(layer, snake)
        return chain
    match layer:
        case ConvTwin() | TransposedTwin():
            return Conv(layer, snake)
        case _ if snake is not None:
            pass
        case ConvNeXtTwin():
            return ConvNeXt(layer)
        case TanhTwin():
            return _Tanh()
    behind = " behind a Snake" * (snake is not None)
    raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__}{behind}.")
