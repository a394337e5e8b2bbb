"""Rotary position embedding over interleaved pairs, in float32: the reference of every kernel.

In C++ it is `turn_row` (native/ops/attention.h), on a GPU a part of `_place` (gpu.py).
Source: `apply_rotary_emb`, fish-speech 0.1.0, models/text2semantic/llama.py.
"""

import torch
from torch import Tensor

# Factors of each pair and of the pair swapped: (cos, cos) and (-sin, sin).
Rotation = tuple[Tensor, Tensor]


def rotation(cos_sin: Tensor) -> Rotation:
    """Prepare what `rotate` multiplies with, once for all layers.

    Args:
        cos_sin: float32 (..., head_dim / 2, 2), cosine and sine of each pair's angle. The leading
            axes broadcast against those of x in `rotate`: with x (batch, heads, time, head_dim)
            they are (batch or 1, 1, time), with x (batch, time, heads, head_dim) they are
            (batch or 1, time, 1).
    """
    cos, sin = cos_sin.float().unbind(-1)
    return torch.stack([cos, cos], dim=-1), torch.stack([-sin, sin], dim=-1)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs (x[2i], x[2i + 1]) of the last axis; the result has the dtype of x."""
    pairs = x.float().unflatten(-1, (-1, 2))
    return (pairs * by[0] + pairs.flip(-1) * by[1]).flatten(-2).type_as(x)
