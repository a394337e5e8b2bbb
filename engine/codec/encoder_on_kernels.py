"""The encoder's step by the operators of `engine/kernels/native`, over (batch, time, channels)."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from engine.codec import on_kernels as codec_kernels
from engine.codec.channels_last import ConvNeXtTwin, ConvTwin, ResidualTwin, SnakeTwin
from engine.codec.graphs import EncoderStep
from engine.codec.layers import CausalConv, ConvNeXt, Residual, Snake, UnsupportedCodecError
from engine.codec.transformer import WindowTransformer


class _Carrying(nn.Module):
    """Any layer that looks back: its last inputs lie in the state, from `at` on."""

    def __init__(self, layer: nn.Module, left: int, channels: int, at: int) -> None:
        super().__init__()
        self.layer, self.left, self.channels, self.at = layer, left, channels, at
        self.kept = left * channels

    def forward(self, x: Tensor, state: Tensor, after: Tensor, start: Tensor) -> Tensor:
        end = self.at + self.kept
        x = torch.cat([state[:, self.at : end].view(x.shape[0], self.left, self.channels), x], 1)
        after[:, self.at : end] = x[:, x.shape[1] - self.left :].flatten(1)
        return self.layer(x, [0])


class _Transformer(nn.Module):
    """With its keys and values in the state; `rate` samples are a position."""

    def __init__(self, layer: WindowTransformer, rate: int, at: int) -> None:
        super().__init__()
        self.transformer = codec_kernels.Transformer(layer)
        self.rate, self.at, self.window = rate, at, layer.window
        self.kept = math.prod(self.transformer.extents)

    def forward(self, x: Tensor, state: Tensor, after: Tensor, start: Tensor) -> Tensor:
        end = self.at + self.kept
        before = state[:, self.at : end].unflatten(1, self.transformer.extents)
        begins = (start // self.rate - self.window).expand(x.shape[0]).contiguous()
        x, kept = self.transformer(x, begins, before)
        after[:, self.at : end] = kept.flatten(1)
        return x


class KernelEncoder(nn.Module):
    """The next chunk of a waveform -> its codes, and the next state, as `EncoderStep` has them.

    Takes the chunk as float32 (batch, frames, samples_per_frame). The order of numbers in the state
    is its own.
    """

    def __init__(self, step: EncoderStep) -> None:
        super().__init__()
        layers: list[Any] = []
        snake, rate, size = None, 1, 0
        for layer in step.layers.layers():
            if isinstance(layer, Snake):
                snake = SnakeTwin(layer)
                continue
            if snake is not None and not isinstance(layer, CausalConv):
                kind = type(layer).__name__
                raise UnsupportedCodecError(f"codec: no kernel of {kind} behind a Snake.")
            match layer:
                case CausalConv():
                    inner = codec_kernels.Conv(ConvTwin(layer), snake)
                    layers.append(_Carrying(inner, layer.left, layer.conv.in_channels, size))
                    rate *= layer.conv.stride[0]
                case Residual():
                    twin, inner = ResidualTwin(layer), codec_kernels.Chain()
                    inner.add(twin)
                    layers.append(_Carrying(inner, twin.left, inner.outputs, size))
                case ConvNeXt():
                    inner = codec_kernels.ConvNeXt(ConvNeXtTwin(layer))
                    layers.append(_Carrying(inner, inner.left, inner.narrow.outputs, size))
                case WindowTransformer():
                    layers.append(_Transformer(layer, rate, size))
                case _:
                    raise UnsupportedCodecError(f"codec: no kernel of {type(layer).__name__}.")
            snake, size = None, size + layers[-1].kept
        self.layers, self.state_size = nn.ModuleList(layers), size
        self.quantizers = step.quantizers

    def forward(self, part: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        x, after = part.flatten(1)[:, :, None], torch.empty_like(state)
        for layer in self.layers:
            x = layer(x, state, after, start)
        z, codes = x.transpose(1, 2), []
        for quantizer in self.quantizers:
            quantized, code = quantizer(z)
            z = z - quantized
            codes.append(code)
        return torch.stack(codes, dim=1), after
