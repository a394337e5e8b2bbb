"""The encoder for compilation ahead of time: convolutions over (batch, time, channels) in memory.

The same numbers as `codec_graphs.EncoderStep`, with the convolutions of `codec_channels_last`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from export.codec_carried import Carried
from export.codec_channels_last import SnakeTwin, convolution
from export.codec_graphs import EncoderStep
from export.codec_layers import CausalConv, ConvNeXt, Residual, Snake, UnsupportedCodecError
from export.codec_transformer import WindowTransformer


class ChannelsLastEncoder(nn.Module):
    """The next chunk of a waveform -> its codes, and the next state, as `EncoderStep` has them.

    Takes the chunk as float32 (batch, frames, samples_per_frame), so that all sizes are linear in
    frames, which torch.export can follow. The order of numbers in the state is its own.
    """

    def __init__(self, step: EncoderStep) -> None:
        """Args:
        step: Its weights are shared where their order can stay.
        """
        super().__init__()
        self.layers = nn.ModuleList(_twin(layer) for layer in step.layers.layers())
        self.step = step

    def forward(self, part: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        carried = Carried(state, start)
        x = part.flatten(1)[:, None, None]
        for layer in self.layers:
            x = layer(x, carried)
        return self.step.codes(x[:, :, 0]), carried.packed()


class _Conv(nn.Module):
    def __init__(self, layer: CausalConv) -> None:
        super().__init__()
        self.left, self.stride = layer.left, layer.conv.stride[0]
        self.conv = convolution(layer.conv)

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        carried.start = carried.start // self.stride
        if self.left:  # joined in the order of memory: else a compiler makes a transposed copy
            before = self.left, self.conv.in_channels
            x = carried.joined(x[:, :, 0].transpose(1, 2), before, 1).transpose(1, 2)[:, :, None]
        return self.conv(x)


class _Residual(nn.Module):
    def __init__(self, layer: Residual) -> None:
        super().__init__()
        self.block = nn.ModuleList(_twin(inner) for inner in layer.block)

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        y = x
        for layer in self.block:
            y = layer(y, carried)
        return x + y


class _ConvNeXt(nn.Module):
    def __init__(self, layer: ConvNeXt) -> None:
        super().__init__()
        self.depthwise = _Conv(layer.depthwise)
        self.norm, self.widen, self.narrow = layer.norm, layer.widen, layer.narrow

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        y = self.norm(self.depthwise(x, carried).permute(0, 2, 3, 1))
        return x + self.narrow(F.gelu(self.widen(y))).permute(0, 3, 1, 2)


class _Transformer(nn.Module):
    def __init__(self, layer: WindowTransformer) -> None:
        super().__init__()
        self.transformer = layer

    def forward(self, x: Tensor, carried: Carried) -> Tensor:
        return self.transformer(x[:, :, 0], carried)[:, :, None]


def _twin(layer: nn.Module) -> nn.Module:
    match layer:
        case CausalConv():
            return _Conv(layer)
        case Snake():
            return SnakeTwin(layer)
        case Residual():
            return _Residual(layer)
        case ConvNeXt():
            return _ConvNeXt(layer)
        case WindowTransformer():
            return _Transformer(layer)
    raise UnsupportedCodecError(f"codec: no channels-last form of {type(layer).__name__}.")


class Packaged(nn.Module):
    """A package in the place of an `EncoderStep`."""

    def __init__(self, package, samples_per_frame: int) -> None:
        super().__init__()
        self.package, self.samples_per_frame = package, samples_per_frame

    def forward(self, part: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        frames = part.unflatten(1, (-1, self.samples_per_frame))
        return self.package(frames.contiguous(), state, start)
