"""Transformers by the operators `product` and `layers` of `engine/kernels/native`.

All activations are float32; weights are float32, bfloat16, int8 or of 4 bits, keys and values
float32 or bfloat16. A row's result has the same bits whatever else is in its batch: each number is
one sum, in one fixed order.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from engine.kernels.panels import DOT, UNIT_DEPTH, filled, group_panels, panels, split_panels
from engine.kernels.rounding import GROUP, ZERO, rounded_groups, rounded_weight

_NO_WINDOW = 2**62  # positions, more than any cache has


class FusedLinear(nn.Module):
    """A linear layer with what comes before and after it in the same pass.

    Before it the rows can be normed, or gate and up of a gated perceptron be multiplied; after it a
    bias and a residual can be added.
    """

    panels: Tensor
    # What there is not is an empty tensor.
    scales: Tensor  # float32 (outputs,), of int8 weights
    zero_sums: Tensor  # int32 (outputs, filled): what `ZERO` in place of 0 adds to each sum
    bias: Tensor
    norm: Tensor

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        norm: Tensor | None = None,
        *,
        eps: float = 0.0,
        gated: bool = False,
        int8: bool = False,
        int4: bool = False,
        split: bool = False,
    ) -> None:
        """Lay the weights out for this machine.

        Args:
            weight: (outputs, depth), float32 or bfloat16.
            bias: (outputs,).
            norm: (depth,), the weight of a root-mean-square norm of the rows.
            eps: Of the norm.
            gated: The rows are gate and up: (..., 2 * depth).
            int8: Round the weights to 8 bits with a scale for each output, and each row with one
                of its own; where depth is no multiple of `DOT` they stay as they are.
            int4: The weights to 4 bits, with a scale for each `GROUP` of depth; where depth is no
                multiple of it, to 8 bits.
            split: Where there are matrix units, compute float32 as the sum of two bfloat16, which
                is 1 in 2^16 off.
        """
        super().__init__()
        self.outputs = weight.shape[0]
        scales, zero_sums = torch.empty(0), torch.empty(0, dtype=torch.int32)
        if int4 and weight.shape[1] % GROUP == 0:
            numbers, group_scales = rounded_groups(weight)
            laid_out = group_panels(filled(numbers), filled(group_scales))
        elif (int8 or int4) and weight.shape[1] % DOT == 0:
            rounded, scales = rounded_weight(weight)
            zero_sums = ZERO * filled(rounded).sum(dim=1, dtype=torch.int32)
            laid_out = panels(filled(rounded), DOT)
        else:
            laid_out = _laid_out(filled(weight), split)
        self.register_buffer("panels", laid_out)
        self.register_buffer("scales", scales)
        self.register_buffer("zero_sums", zero_sums)
        self.register_buffer("bias", torch.empty(0) if bias is None else bias.float())
        self.register_buffer("norm", torch.empty(0) if norm is None else norm.float())
        self.eps, self.gated = eps, gated

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """float32 (..., depth), or twice that if gated -> (..., outputs), plus the residual."""
        return torch.ops.voicereel.product(
            *(x, self.panels, self.outputs, self.scales, self.zero_sums, self.bias, self.norm),
            *(self.eps, self.gated, residual),
        )


def _laid_out(weight: Tensor, split: bool) -> Tensor:
    """Panels of a float weight, as the units of this machine read them."""
    if weight.shape[1] % UNIT_DEPTH or not torch.ops.voicereel.has_units():
        return panels(weight)
    if weight.dtype == torch.bfloat16:
        return panels(weight, 2)
    return split_panels(weight) if split else panels(weight)


class FusedLayer(nn.Module):
    """The four linear layers of one transformer layer.

    Attributes:
        linears: Queries, keys and values; attention's output; gate and up; down.
        head_norms: Weights of queries' and keys' norms, if there are such.
    """

    def __init__(self, *linears: FusedLinear, head_norms: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.linears, self.head_norms = linears, [norm.float() for norm in head_norms]


class FusedTransformer(nn.Module):
    """Pre-norm attention and gated perceptron: all layers of a transformer in one call."""

    head_norms: Tensor
    outputs: list[int]

    def __init__(self, layers: Iterable[Any], eps: float) -> None:
        """Join layers.

        Args:
            layers: `FusedLayer`s of one shape.
            eps: Of all norms.
        """
        super().__init__()
        layers = list(layers)
        self.linears = nn.ModuleList(linear for layer in layers for linear in layer.linears)
        self.outputs = [linear.outputs for linear in layers[0].linears]
        norms = [norm for layer in layers for norm in layer.head_norms]
        self.register_buffer("head_norms", torch.stack(norms) if norms else torch.empty(0))
        self.eps = eps

    def forward(
        self,
        x: Tensor,
        past_lengths: Tensor,
        cos_sin: Tensor,
        keys: Tensor,
        values: Tensor,
        begins: Tensor | None = None,
        window: int = _NO_WINDOW,
        shared: Tensor | None = None,
    ) -> Tensor:
        """Compute new positions, and write their keys and values behind the cached ones.

        Args:
            x: float32 (batch, time, dim), the new positions.
            past_lengths: int64 (batch,), positions cached.
            cos_sin: float32 (positions, head_dim / 2, 2).
            keys, values: (layers, batch, kv heads, positions, head_dim), with room for new ones.
            begins: int64 (batch,), the number of the first cached position, by which it is rotated;
                positions with a number below 0 are padding, which is not seen. None: 0.
            window: Positions that each sees, itself included.
            shared: See `engine.lm.runner.NewPositions`.

        Returns:
            float32 (batch, time, dim).
        """
        return torch.ops.voicereel.layers(
            *(x, past_lengths, cos_sin),
            [linear.panels for linear in self.linears],
            [linear.scales for linear in self.linears],
            [linear.zero_sums for linear in self.linears],
            [linear.bias for linear in self.linears],
            [linear.norm for linear in self.linears],
            *(self.outputs, self.head_norms, self.eps, keys, values, begins, window, shared),
        )
