"""The encoder's step on kernels: each layer's last inputs lie in one state, as in `EncoderStep`."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from engine.codec.encoder import EncoderStep
from engine.codec.layers import CausalConv, ConvNeXt, Residual, Snake, UnsupportedCodecError
from engine.codec.on_kernels.layers import (
    FusedConvNeXt,
    FusedWindowTransformer,
    append_residual,
    fused_conv,
)
from engine.codec.transformer import WindowTransformer
from engine.kernels.convolution import ConvChain


class _Streamed(nn.Module):
    """A layer whose last inputs lie in the state, from `at` on."""

    def __init__(self, layer: nn.Module, left: int, channels: int, at: int) -> None:
        super().__init__()
        self.layer, self.left, self.channels, self.at = layer, left, channels, at
        self.state_size = left * channels

    def forward(self, x: Tensor, state: Tensor, after: Tensor, start: Tensor) -> Tensor:
        end = self.at + self.state_size
        x = torch.cat([state[:, self.at : end].view(x.shape[0], self.left, self.channels), x], 1)
        after[:, self.at : end] = x[:, x.shape[1] - self.left :].flatten(1)
        return self.layer(x, [0])


class _StreamedTransformer(nn.Module):
    """A transformer whose cache lies in the state, from `at` on; a position is `rate` samples."""

    def __init__(self, layer: WindowTransformer, rate: int, at: int) -> None:
        super().__init__()
        self.transformer = FusedWindowTransformer(layer)
        self.rate, self.at, self.window = rate, at, layer.window
        self.state_size = math.prod(self.transformer.cache_shape)

    def forward(self, x: Tensor, state: Tensor, after: Tensor, start: Tensor) -> Tensor:
        end = self.at + self.state_size
        cache = state[:, self.at : end].unflatten(1, self.transformer.cache_shape)
        begins = (start // self.rate - self.window).expand(x.shape[0]).contiguous()
        x, cache = self.transformer(x, begins, cache)
        after[:, self.at : end] = cache.flatten(1)
        return x


class KernelEncoder(nn.Module):
    """The next chunk of a waveform -> its codes and the next state, as `EncoderStep` has them.

    Takes the chunk as float32 (batch, frames, samples_per_frame). The order of the numbers in its
    state is its own.
    """

    def __init__(self, step: EncoderStep) -> None:
        """Lay out the weights of a step.

        Raises:
            UnsupportedCodecError: If it has a layer without a kernel.
        """
        super().__init__()
        layers: list[Any] = []
        snake, rate, size = None, 1, 0
        for layer in step.layers.layers():
            if isinstance(layer, Snake):
                snake = layer
                continue
            layers.append(_streamed(layer, snake, rate, size))
            if isinstance(layer, CausalConv):
                rate *= layer.conv.stride[0]
            snake, size = None, size + layers[-1].state_size
        self.layers, self.state_size = nn.ModuleList(layers), size
        self.quantizer = step.quantizer

    def forward(self, part: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        x, after = part.flatten(1)[:, :, None], torch.empty_like(state)
        for layer in self.layers:
            x = layer(x, state, after, start)
        return self.quantizer(x.transpose(1, 2)), after


def _streamed(layer: Any, snake: Snake | None, rate: int, at: int) -> nn.Module:
    """Put one layer, and the Snake before it, on kernels, with its place in the state."""
    if snake is not None and not isinstance(layer, CausalConv):
        raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__} behind a Snake.")
    match layer:
        case CausalConv():
            return _Streamed(fused_conv(layer, snake), layer.left, layer.conv.in_channels, at)
        case Residual():
            chain = ConvChain()
            append_residual(chain, layer)
            return _Streamed(chain, layer.context(0), chain.outputs, at)
        case ConvNeXt():
            inner = FusedConvNeXt(layer)
            return _Streamed(inner, inner.left, inner.narrow.outputs, at)
        case WindowTransformer():
            return _StreamedTransformer(layer, rate, at)
    raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__}.")
