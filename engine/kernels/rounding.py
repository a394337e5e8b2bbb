"""Rounding to 8 and to 4 bits: the reference of every kernel.

Weights are symmetric int8 with a scale for each output, or of 4 bits with one for each `GROUP` of
depth; activations are uint8 with a scale for
each row, so that no row's result depends on the others of its batch. In C++
`rounded_rows` is `round_row` (native/simd/rows.h), which multiplies with 127 / largest where torch
divides by largest / 127: a number that lies at the edge of two steps may take the other one.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LARGEST = 127  # steps from 0 to the largest magnitude
ZERO = 128  # the unsigned number that stands for 0
GROUP = 32  # of depth, weights of 4 bits that share a scale: kGroup of native/simd/bytes.h
BYTES = {"int8": 1.0, "int4": 0.5 + 2 / GROUP}  # of a weight, with the scale of its group
SMALL_ZERO = 8  # the number of 4 bits that stands for 0
_SMALLEST = 1e-12  # magnitude; a row of zeros must not be divided by 0
_STEPS = 255  # from the least to the largest number of 8 unsigned bits
_LEAST_RANGE = 1e-6  # of a channel that is always 0, by which must not be divided either


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


def rounded_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to 4 bits, halves to even: each `GROUP` of depth has a scale of its own.

    The number of the largest magnitude becomes the end of the range that has one step more.

    Args:
        weight: (outputs, depth), any float dtype; depth is a multiple of `GROUP`.

    Returns:
        uint8 (outputs, depth), 0 to 15, in which `SMALL_ZERO` stands for 0, and bfloat16 (outputs,
        depth / `GROUP`), the scales.
    """
    groups = weight.float().unflatten(1, (-1, GROUP))
    largest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
    scale = (largest / -SMALL_ZERO).bfloat16()
    steps = groups / torch.where(scale == 0, 1.0, scale.float())
    rounded = (steps.round() + SMALL_ZERO).clamp(0, 2 * SMALL_ZERO - 1)
    return rounded.to(torch.uint8).flatten(1), scale[..., 0]


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


class RoundedConvolution(NamedTuple):
    """A convolution's weights in 8 bits, and how its inputs are rounded.

    Attributes:
        weight: int8 (outputs, channels, taps).
        scale: float32 (outputs,): an output is its sum of products times its scale.
        per_unit: float32 (channels,): steps that an input of 1.0 is.
        zero: The step, 0 to 255, that stands for an input of 0.
    """

    weight: Tensor
    scale: Tensor
    per_unit: Tensor
    zero: int


def rounded_convolution(weight: Tensor, low: Tensor, high: Tensor) -> RoundedConvolution:
    """Round a convolution whose inputs stay within known ranges.

    The steps of the inputs are constants, so that no output depends on what else is computed with
    it. Channels with larger inputs get larger steps, at the cost of their weights' range.
    Source: SmoothQuant, arXiv 2211.10438, with an exponent of one half.

    Args:
        weight: float32 (outputs, channels, taps).
        low: float32 (channels,), the least input of each channel, 0 or below.
        high: float32 (channels,), the largest one, 0 or above.
    """
    largest = torch.maximum(high, -low).clamp(min=_LEAST_RANGE)
    balance = (largest / weight.abs().amax(dim=(0, 2)).clamp(min=_LEAST_RANGE)).sqrt()
    least, most = (low / balance).min(), (high / balance).max()
    span = (most - least).clamp(min=_LEAST_RANGE)
    step = balance * (span / _STEPS)
    rounded, scale = rounded_weight(weight * step[:, None])
    zero = int((-least / span * _STEPS).round())
    return RoundedConvolution(rounded, scale, step.reciprocal(), zero)
