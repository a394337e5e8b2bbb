"""The decoder on kernels, which can resume behind what it has decoded.

Audio depends neither on where a window begins nor on what else is in the batch, to the last bit.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.decoder import DecoderGraph
from engine.codec.int8 import Ranges
from engine.codec.layers import (
    CausalConv,
    CausalTransposedConv,
    ConvNeXt,
    Residual,
    Snake,
    Tanh,
    UnsupportedCodecError,
)
from engine.codec.on_kernels.layers import (
    FusedConvNeXt,
    FusedWindowTransformer,
    append_residual,
    fused_conv,
    fused_linear,
)
from engine.codec.streaming import LayerWindow
from engine.codec.transformer import WindowTransformer
from engine.kernels.convolution import ConvChain

# Weights of a convolution that leave room in a core's cache for what passes through it: 1 MB in 8
# bits, 4 MB in float32. Such layers run in one pass with their neighbours.
_NARROW = 1 << 20


class KernelDecoder(nn.Module):
    """codes, new_frames -> audio, as `DecoderGraph` has it."""

    rates: list[list[int]]  # of the layers that each kernel layer is made of
    contexts: list[list[int]]

    def __init__(self, graph: DecoderGraph, ranges: Ranges | None = None) -> None:
        """Lay out the weights of a graph.

        Args:
            graph: In float32.
            ranges: Round to 8 bits, see `engine.codec.int8`.

        Raises:
            UnsupportedCodecError: If the graph has a layer without a kernel.
        """
        super().__init__()
        self.rows = graph.dequantizer.rows
        self.entries = nn.Embedding.from_pretrained(graph.dequantizer.entries.detach())
        self.project = fused_linear(graph.dequantizer.project)
        self.transformer, self.cache_shape = None, [0, 2, 1, 0, 1]
        if isinstance(graph.transformer, WindowTransformer):  # a codec may do without
            self.transformer = FusedWindowTransformer(graph.transformer, ranges is not None)
            self.cache_shape = self.transformer.cache_shape
        self.context_frames = graph.context_frames
        self.layers = nn.ModuleList()
        self.rates, self.contexts = [], []
        snake, was_narrow = None, False
        for window in graph.windows:
            if isinstance(window.layer, Snake):
                snake = window.layer
                continue
            is_narrow = _is_narrow(window.layer)
            if is_narrow and was_narrow:
                _append(self.layers[-1], window, snake, ranges)
            else:
                self.layers.append(_layer(window, snake, ranges))
                self.rates.append([])
                self.contexts.append([])
            snake, was_narrow = None, is_narrow
            self.rates[-1].append(window.rate)
            self.contexts[-1].append(window.context)

    def forward(self, codes: Tensor, new_frames: Tensor) -> Tensor:
        history = codes.shape[2] - new_frames.shape[1]
        return self.resume(codes, new_frames, history, *self.begin(codes.shape[0]))[0]

    @torch.jit.export
    def begin(self, rows: int) -> tuple[Tensor, Tensor]:
        """`cache` and `context` of `resume` where nothing has been decoded."""
        layers, two, heads, _, head_dim = self.cache_shape
        cache = torch.empty((rows, layers, two, heads, 0, head_dim))
        return cache, torch.empty((rows, 0, self.project.outputs))

    @torch.jit.export
    def resume(
        self, codes: Tensor, new_frames: Tensor, history: int, cache: Tensor, context: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the frames behind those that the cache knows.

        Args:
            codes: int64 (batch, codebooks, frames), without the frames that the cache knows.
            new_frames: int64 (batch, new), the numbers of the last frames of codes.
            history: Frames before the new ones, in codes and in the cache together.
            cache: The transformer's keys and values, see `FusedWindowTransformer`.
            context: float32 (batch, frames, dim), the transformer's output at the last frames that
                the cache knows.

        Returns:
            Audio float32 (batch, samples), and `cache` and `context` for the frames behind.
        """
        begins = new_frames[:, 0] - (codes.shape[2] - new_frames.shape[1]) - cache.shape[4]
        x = self.project(self.entries(self.rows(codes).transpose(1, 2)).flatten(2))
        if self.transformer is not None:
            x, cache = self.transformer(x, begins, cache)
        x = torch.cat([context, x], 1)
        context = x[:, max(0, x.shape[1] - self.context_frames) :]
        missing = self.context_frames + new_frames.shape[1] - x.shape[1]
        x = F.pad(x, (0, 0, missing, 0))  # a negative number cuts frames off
        for i, layer in enumerate(self.layers):
            audio_begin: list[int] = []
            for j in range(len(self.rates[i])):
                audio_begin.append(self.contexts[i][j] - history * self.rates[i][j])
            x = layer(x, audio_begin)
        return x.flatten(1), cache, context


class _Tanh(nn.Module):
    def forward(self, x: Tensor, audio_begin: list[int]) -> Tensor:
        return torch.tanh(x)


def _is_narrow(layer: Any) -> bool:
    """Whether a layer's weights leave room in a core's cache for what passes through it."""
    if isinstance(layer, Residual):
        return _is_narrow(layer.block[1])
    is_conv = isinstance(layer, CausalConv | CausalTransposedConv)
    return is_conv and layer.conv.weight.numel() <= _NARROW


def _layer(window: LayerWindow, snake: Snake | None, ranges: Ranges | None) -> nn.Module:
    """Put a layer, and the Snake before it, on kernels."""
    layer = window.layer
    if isinstance(layer, Residual) or _is_narrow(layer):
        chain = ConvChain()
        _append(chain, window, snake, ranges)
        return chain
    if isinstance(layer, CausalConv | CausalTransposedConv):
        return fused_conv(layer, snake, ranges, window.after)
    _refuse_snake(layer, snake)
    if isinstance(layer, ConvNeXt):
        return FusedConvNeXt(layer, ranges is not None)
    if isinstance(layer, Tanh):
        return _Tanh()
    raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__}.")


def _append(chain: Any, window: LayerWindow, snake: Snake | None, ranges: Ranges | None) -> None:
    if isinstance(window.layer, Residual):
        _refuse_snake(window.layer, snake)
        append_residual(chain, window.layer, ranges)
    else:
        chain.append(fused_conv(window.layer, snake, ranges, window.after))


def _refuse_snake(layer: nn.Module, snake: Snake | None) -> None:
    if snake is not None:
        raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__} behind a Snake.")
