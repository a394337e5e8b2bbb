"""How weights lie in memory for the operators of `engine/kernels/native`.

A panel is `PANEL` outputs side by side, for one step of depth after the other. Where a CPU has
matrix units (AMX), bfloat16 weights lie in pairs of depth, as these units read them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.rounding import GROUP

PANEL = 32  # outputs of a panel: kColumns of native/simd/rows.h
DOT = 4  # int8 inputs whose products one instruction adds up: kDot of native/simd/rows.h
UNIT_BYTES = 64  # of depth that a matrix unit takes at once: kUnitBytes of native/simd/amx.h
UNIT_DEPTH = UNIT_BYTES // 2  # the same in bfloat16 numbers


def filled(weight: Tensor) -> Tensor:
    """Append outputs of zeros until the last panel is full: (outputs, depth) -> the same, more."""
    return F.pad(weight, (0, 0, 0, -weight.shape[0] % PANEL))


def panels(weight: Tensor, dot: int = 1) -> Tensor:
    """Lay weights out in panels.

    Args:
        weight: (outputs, depth), `filled`; depth is a multiple of dot.
        dot: Numbers along depth that lie together.

    Returns:
        (panels, depth / dot, `PANEL`, dot), or without the last axis where dot is 1.
    """
    found = weight.view(-1, PANEL, weight.shape[1] // dot, dot).transpose(1, 2)
    return (found[..., 0] if dot == 1 else found).contiguous()


def group_panels(numbers: Tensor, scales: Tensor) -> Tensor:
    """Lay weights of 4 bits out, the scales of a group in front of it.

    Args:
        numbers: uint8 (outputs, depth), 0 to 15, `filled`; depth is a multiple of `GROUP`.
        scales: bfloat16 (outputs, depth / `GROUP`), `filled`.

    Returns:
        uint8 (panels, groups, bytes): see `Group` of native/ops/product.h.
    """
    steps = numbers.view(-1, PANEL, numbers.shape[1] // GROUP, GROUP // (2 * DOT), 2, DOT)
    halves = steps.permute(4, 0, 2, 3, 1, 5)  # the two steps of a byte first
    packed = (halves[0] | halves[1] << 4).flatten(2)
    of_panel = scales.view(-1, PANEL, scales.shape[1]).transpose(1, 2).contiguous()
    return torch.cat([of_panel.view(torch.uint8), packed], dim=2).contiguous()


def split_panels(weight: Tensor) -> Tensor:
    """Lay float32 weights out as sums of two bfloat16, which are 1 in 2^16 off at most.

    Args:
        weight: float32 (outputs, depth), `filled`; depth is a multiple of `UNIT_DEPTH`.

    Returns:
        bfloat16 (panels, steps of depth, 2, `UNIT_DEPTH` / 2 * `PANEL`, 2): for each step first the
        nearest bfloat16 of the weights, then what these lack. The operators know such weights by
        their five axes.
    """
    high = weight.bfloat16()
    parts = torch.stack([high, (weight - high.float()).bfloat16()])
    found = parts.view(2, -1, PANEL, weight.shape[1] // UNIT_DEPTH, UNIT_DEPTH // 2, 2)
    return found.permute(1, 3, 0, 4, 2, 5).flatten(3, 4).contiguous()
