"""Rounding to 8 bits: the reference of every kernel.

Weights are symmetric int8 with a scale for each output; activations are uint8 with a scale for
each row, so that no row's result depends on the others of its batch. The native twin of
`rounded_rows` is `round_row` (native/rows.h), which multiplies with 127 / largest where torch
divides by largest / 127: a number that lies at the edge of two steps may take the other one.
"""

import torch
from torch import Tensor

LARGEST = 127  # steps from 0 to the largest magnitude
ZERO = 128  # the unsigned number that stands for 0
_SMALLEST = 1e-12  # magnitude; a row of zeros must not be divided by 0


def rounded_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to the nearest step, halves to even.

    Args:
        weight: (outputs, ...), any float dtype.

    Returns:
        int8 (outputs, ...) and float32 (outputs,): a weight is about its int8 times its scale.
    """
    rows = weight.float().flatten(1)
    scale = rows.abs().amax(dim=1).clamp(min=_SMALLEST) / LARGEST
    return (rows / scale[:, None]).round().to(torch.int8).view(weight.shape), scale


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round activations to the nearest step, halves up.

    Args:
        x: float32 (..., depth).

    Returns:
        uint8 (..., depth), in which `ZERO` stands for 0, and float32 (..., 1), the scales.
    """
    largest = torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True)
    scale = largest.clamp(min=_SMALLEST) / LARGEST
    return (x / scale + (ZERO + 0.5)).to(torch.uint8), scale
