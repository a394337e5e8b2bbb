"""Matrix products with constant weights, laid out for the device that multiplies.

Packed for a CPU, a row's product has the same bits for every number of rows on the machines tried
(`TorchRunner.batch_invariant` checks it at load): a request's result must not depend on the others
of its batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.rounding import ZERO, rounded_rows, rounded_weight

ROWS_HINT = 16  # oneDNN packs for this many rows; the layout serves every other number as well
MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]

# A trace cannot take the empty lists of these calls (torch 2.13); a script can.
_SCRIPT = torch.jit.CompilationUnit("""
def packed(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

def int8(x: Tensor, x_zero: int, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, x_zero, weight, scale, zero, None, 1.0, 0, torch.float32, "none", [], "")
""")


class Linear(nn.Module):
    """`torch.nn.functional.linear`, for GPUs and exports."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class PackedLinear(nn.Module):
    """Weights reordered once for oneDNN's kernels, for CPUs."""

    packed: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = bias
        reorder = torch.ops.mkldnn._reorder_linear_weight
        self.register_buffer("packed", reorder(weight, ROWS_HINT), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return _SCRIPT.packed(x, self.packed, self.bias)


class PackedInt8Linear(nn.Module):
    """8-bit weights, scaled per output, times 8-bit activations, scaled per row, for CPUs.

    The sums are integers, so they are exact. One scale for all rows, which is what
    `quantized::linear_dynamic` takes, would let the other requests of a batch change a result.
    """

    packed: Tensor
    scale: Tensor
    one: Tensor
    zero: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rounded, scale = rounded_weight(weight)
        pack = torch.ops.onednn.qlinear_prepack
        self.register_buffer("packed", pack(rounded, None), persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("one", torch.ones_like(scale), persistent=False)
        self.register_buffer("zero", torch.zeros_like(scale, dtype=torch.int64), persistent=False)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        rounded, scale = rounded_rows(x.float())  # oneDNN's fast kernels take unsigned activations
        parts = [rounded]
        if not torch.cpu._is_vnni_supported():
            # Without VNNI oneDNN cuts the sum of two products off at 16 bits: 2 * 128 * 127 fits.
            parts = [rounded >> 1, rounded - (rounded >> 1)]
        zero = ZERO // len(parts)
        sums = [_SCRIPT.int8(part, zero, self.packed, self.one, self.zero) for part in parts]
        y = torch.stack(sums).sum(dim=0) * self.scale * scale
        return (y if self.bias is None else y + self.bias).type_as(x)


@torch.no_grad()
def is_batch_invariant(linear: nn.Module, width: int, like: Tensor) -> bool:
    """Whether a row's product has the same bits with any number of other rows, in a few tries.

    Args:
        linear: Any of the above, `width` wide.
        width: Of its input.
        like: Has the input's dtype and device.
    """
    x = torch.randn(33, width, generator=torch.Generator().manual_seed(0)).to(like)
    whole = linear(x)
    return all(torch.equal(linear(x[:rows]), whole[:rows]) for rows in (1, 2, 5, 16, 17))


def linear_for(device: torch.device, int8: bool = False) -> MakeLinear:
    """The class that is fastest on a device."""
    if device.type != "cpu":
        return Linear
    return PackedInt8Linear if int8 else PackedLinear
