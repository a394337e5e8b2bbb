"""Convolutions over (batch, time, channels) by the operators `convolve` and `chain`.

Every number is one sum in one fixed order, and a sum of integers is exact. So an output has the
same bits wherever the window begins, and whatever else is in the batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.panels import DOT, PANEL, UNIT_BYTES, filled, panels, split_panels
from engine.kernels.rounding import RoundedConvolution


class FusedConv(nn.Module):
    """A convolution without padding, and the Snake that its inputs go through before it.

    With `times` above 1 each of its outputs is that many times, one after the other: this is how a
    transposed convolution is computed.
    """

    per_input: Tensor  # float32 (3, channels): alpha / pi, 1 / alpha, steps that 1.0 is rounded to
    panels: Tensor
    zero_sums: Tensor  # int32 (outputs,): what the zero point adds to each sum of 8-bit products
    per_output: Tensor  # float32 (2, outputs): scale, bias

    def __init__(
        self,
        weight: Tensor | RoundedConvolution,
        bias: Tensor | None = None,
        snake: tuple[Tensor, Tensor] | None = None,
        *,
        dilation: int = 1,
        stride: int = 1,
        times: int = 1,
        surplus: int = 0,
    ) -> None:
        """Lay the weights out for this machine.

        Args:
            weight: float32 (outputs, channels, taps), computed as sums of two bfloat16 where there
                are matrix units and in float32 elsewhere; or rounded to 8 bits.
            bias: float32 (outputs,).
            snake: float32 (channels,) each, alpha and 1 / alpha of x + sin(alpha x)^2 / alpha.
            dilation: Times between two taps.
            stride: Times from an output's inputs to the next one's.
            times: Times that the channels of an output hold, one after the other.
            surplus: How many of the first of all these times are left out.
        """
        super().__init__()
        rounded = weight if isinstance(weight, RoundedConvolution) else None
        plain: Tensor = weight.weight if isinstance(weight, RoundedConvolution) else weight
        self.outputs, channels, self.taps = plain.shape
        self.dilation, self.stride, self.times, self.surplus = dilation, stride, times, surplus
        self.zero = 0.0 if rounded is None else float(rounded.zero)
        # Channels of zeros fill what is read at once.
        more = -channels % (PANEL if rounded is None else UNIT_BYTES)
        rows = filled(F.pad(plain, (0, 0, 0, more)).transpose(1, 2).flatten(1))
        laid_out, zero_sums = _laid_out(rows, int(self.zero))
        per_input, per_output = torch.zeros(3, channels), torch.zeros(2, self.outputs)
        if snake is not None:
            per_input[0], per_input[1] = snake[0] / math.pi, snake[1]
        per_input[2] = 1.0 if rounded is None else rounded.per_unit
        per_output[0] = 1.0 if rounded is None else rounded.scale
        per_output[1] = 0.0 if bias is None else bias
        self.register_buffer("per_input", F.pad(per_input, (0, more)))
        self.register_buffer("panels", laid_out)
        self.register_buffer("zero_sums", zero_sums)
        self.register_buffer("per_output", F.pad(per_output, (0, len(rows) - self.outputs)))

    def forward(self, x: Tensor, audio_begin: list[int]) -> Tensor:
        """Convolve.

        Args:
            x: float32 (batch, time, channels).
            audio_begin: One number: inputs before this time count as zeros.

        Returns:
            float32 (batch, fewer times, channels): those whose inputs are all in x.
        """
        y = torch.ops.voicereel.convolve(
            *(x, self.per_input, self.panels, self.zero_sums, self.per_output, self.outputs),
            *(self.taps, self.dilation, self.stride, self.zero, audio_begin[0]),
        )
        return y.view(y.shape[0], y.shape[1] * self.times, -1)[:, self.surplus :]


def _laid_out(rows: Tensor, zero: int) -> tuple[Tensor, Tensor]:
    """Panels of weights (outputs, depth), and what their zero point adds to each output's sum."""
    if rows.dtype == torch.int8:
        return panels(rows, DOT), zero * rows.sum(dim=1, dtype=torch.int32)
    laid_out = split_panels(rows) if torch.ops.voicereel.has_units() else panels(rows)
    return laid_out, torch.zeros(len(rows), dtype=torch.int32)


class ConvChain(nn.Module):
    """Convolutions one behind the other in one pass, so that what is between them stays in cache.

    Two of them can be a residual unit, whose input is added to its output.
    """

    shapes: list[int]  # six numbers for each, as `chain` takes them
    zeros: list[float]

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList()
        self.shapes, self.zeros, self.outputs = [], [], 0

    def append(self, conv: FusedConv) -> None:
        """Add a convolution of stride 1."""
        self._append(conv, is_second=False)

    def append_residual(self, first: FusedConv, second: FusedConv) -> None:
        """Add a residual unit; its second convolution has one tap."""
        self._append(first, is_second=False)
        self._append(second, is_second=True)

    def _append(self, conv: FusedConv, is_second: bool) -> None:
        self.convs.append(conv)
        own = [conv.outputs, conv.taps, conv.dilation, conv.times, conv.surplus, int(is_second)]
        self.shapes += own
        self.zeros.append(conv.zero)
        self.outputs = conv.outputs // conv.times

    def forward(self, x: Tensor, audio_begin: list[int]) -> Tensor:
        """Run all of them.

        Args:
            x: float32 (batch, time, channels).
            audio_begin: A number for each convolution and each residual unit: its inputs before
                this time count as zeros.
        """
        return torch.ops.voicereel.chain(
            x,
            [conv.per_input for conv in self.convs],
            [conv.panels for conv in self.convs],
            [conv.zero_sums for conv in self.convs],
            [conv.per_output for conv in self.convs],
            *(self.shapes, self.zeros, audio_begin),
        )
