"""Root-mean-square norm over the last axis, in float32: the reference of every kernel.

In C++ it is `norm_row` (native/simd/rows.h), on a GPU `_add_norm` (gpu.py).
Source: `RMSNorm`, fish-speech 0.1.0, models/text2semantic/llama.py.
"""

import torch
from torch import Tensor, nn


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm x (..., dim) and scale it by weight (dim,); the result has the dtype of x."""
    y = x.float()
    y = y * torch.rsqrt(torch.mean(y * y, dim=-1, keepdim=True) + eps)
    return y.type_as(x) * weight


class RMSNorm(nn.Module):
    """`rms_norm` with its weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)
