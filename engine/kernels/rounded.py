"""Products of rounded operands with float32 sums, and attention to a window, by torch.

What `engine.kernels.gpu_codec` computes on a GPU, for a CPU and as the reference of tests. Sums are
taken in float64 and rounded to float32, so that they do not depend on the order, which in torch
changes with the shape: else two ways to cut a stream would differ by what half precision makes of
that.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.norm import rms_norm

Beginning = tuple[Tensor, int, int]  # see `convolve`
Snake = Tensor  # its factors alpha, float32 (outputs of one time,)
ACTIVATIONS = ("", "snake", "gelu")


class Conv(NamedTuple):
    """A convolution's weights, rounded to half precision.

    Attributes:
        weight: (taps, channels, outputs).
        low: What rounding has left of it, for sums of three products, which are as good as
            float32; None: there is one product.
        bias: float32 (outputs,), or None.
        dilation: Inputs between two taps.
        times: Outputs in time for each input, which lie side by side in `outputs`.
    """

    weight: Tensor
    low: Tensor | None
    bias: Tensor | None
    dilation: int = 1
    times: int = 1


def conv_of(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    split: bool,
    dilation: int = 1,
    times: int = 1,
) -> Conv:
    """Round a weight, float32 (outputs, channels, taps)."""
    weight = weight.detach().permute(2, 1, 0).contiguous().float()
    high = weight.to(dtype)
    low = (weight - high.float()).to(dtype) if split else None
    return Conv(high, low, None if bias is None else bias.detach().float(), dilation, times)


def convolve(
    x: Tensor,
    conv: Conv,
    dtype: torch.dtype,
    residual: Tensor | None = None,
    beginning: Beginning | None = None,
    activation: Snake | str = "",
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Convolve without padding, add, silence what lies before the audio, activate.

    Args:
        x: (rows, time, channels), contiguous but for its first axis; rounded to half precision.
        conv: By what.
        dtype: Of the result.
        residual: float32 (rows, time, outputs), contiguous but for its first axis.
        beginning: `history`, int64 (rows,), in frames; the output, counted in time, at which the
            new frames begin; and outputs for each frame.
        activation: A Snake's factors, or one of `ACTIVATIONS` without factors.
        keep: Whether what goes into the activation is returned too.

    Returns:
        (rows, time - (taps - 1) * dilation, outputs) in `dtype`; and, if it is kept, the same
        before the activation in float32.
    """
    half = conv.weight.dtype
    high = x.to(half)
    sums = _product(high, conv.weight, conv.dilation)
    if conv.low is not None:
        rest = (x.float() - high.float()).to(half)
        sums += _product(rest, conv.weight, conv.dilation)
        sums += _product(high, conv.low, conv.dilation)
    sums = sums.float()
    if conv.bias is not None:
        sums = sums + conv.bias
    if residual is not None:
        sums = sums + residual
    if beginning is not None:
        history, origin, rate = beginning
        by_time = sums.unflatten(2, (conv.times, -1)).flatten(1, 2)
        place = torch.arange(by_time.shape[1], device=x.device)
        silent = place < (origin - history * rate)[:, None]
        sums = by_time.masked_fill(silent[:, :, None], 0.0).view_as(sums)
    total = sums if keep else None
    if isinstance(activation, Tensor):
        alpha = activation.repeat(conv.times)
        sums = sums + torch.sin(alpha * sums).square() / (alpha + 1e-9)
    elif activation == "gelu":
        sums = F.gelu(sums)
    return sums.to(dtype), total


def _product(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """float64."""
    x, taps = x.double(), weight.double()
    time = x.shape[1] - (len(taps) - 1) * dilation
    sums = x[:, :time] @ taps[0]
    for i, tap in enumerate(taps[1:], 1):
        sums += x[:, i * dilation : i * dilation + time] @ tap
    return sums


def attend(queries: Tensor, keys: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """Attend from new positions to the last `window` ones, themselves included.

    Args:
        queries: (rows, time, heads, head_dim).
        keys, values: (rows, heads, window + time, head_dim), the new positions last; contiguous
            but for the first axis, of equal strides.
        known: int64 (rows,), how many of the `window` positions in front there are.

    Returns:
        (rows, time, heads * head_dim), in the dtype of queries.
    """
    time, window = queries.shape[1], keys.shape[2] - queries.shape[1]
    place = torch.arange(window + time, device=keys.device)
    after = torch.arange(time, device=keys.device)[:, None]
    seen = (place > after) & (place <= after + window)
    mask = seen & (place >= (window - known)[:, None, None])
    q = queries.transpose(1, 2).double()
    y = F.scaled_dot_product_attention(q, keys.double(), values.double(), mask[:, None])
    return y.transpose(1, 2).flatten(2).to(queries.dtype)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Norm float32 x (rows, time, dim), see `engine.kernels.norm`."""
    return rms_norm(x, weight, eps)


def gated(x: Tensor) -> Tensor:
    """Compute silu(gate) * up: (rows, time, 2 * width) -> (rows, time, width)."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up
