"""A matrix product of a decode step on a GPU with what lies around it, in OpenAI's Triton.

One launch takes in the norm before a product, and the gate or the sum behind it. Sums are float32
and are rounded where `engine.lm.layers` rounds. A tile's height depends on the number of rows, but
no sum does: a row has the same bits beside any number of others.
"""

import triton
import triton.language as tl
from torch import Tensor

_DOT = 16  # the smallest side of a tile that `tl.dot` takes
_INPUTS = 256  # of a matrix that a block of threads takes at a time
_NORMED = 512  # of a row whose norm it takes: more at a time, for each waits for the one before
_MANY_OUTPUTS = 4096  # from which on blocks of threads take 32 each and still keep the GPU busy


@triton.jit
def _project(
    x, weight, bias, scale, residual, out, rows, width, outputs, eps,
    HAS_NORM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    IS_GATED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    NORMED: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_row, is_output = (m < rows)[:, None], (n < outputs)[:, None]
    dtype = x.dtype.element_ty
    if HAS_NORM:
        squares = tl.zeros((BLOCK_M,), tl.float32)
        for first in range(0, width, NORMED):
            k = first + tl.arange(0, NORMED)
            a = tl.load(x + m[:, None] * width + k[None], is_row & (k < width)[None], 0.0)
            a = a.to(tl.float32)
            squares += tl.sum(a * a, 1)
        factor = tl.rsqrt(squares / width + eps)[:, None]
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    ups = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for first in range(0, width, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        inside = (k < width)[None]
        a = tl.load(x + m[:, None] * width + k[None], is_row & inside, 0.0)
        if HAS_NORM:
            a = (a.to(tl.float32) * factor).to(dtype) * tl.load(scale + k, k < width, 0.0)[None]
        at = n[:, None] * width + k[None]
        w = tl.load(weight + at, is_output & inside, 0.0)
        sums = tl.dot(a, tl.trans(w), sums, input_precision="ieee")
        if IS_GATED:
            w = tl.load(weight + outputs.to(tl.int64) * width + at, is_output & inside, 0.0)
            ups = tl.dot(a, tl.trans(w), ups, input_precision="ieee")
    if HAS_BIAS:
        sums += tl.load(bias + n, n < outputs, 0.0)[None].to(tl.float32)
    y = sums.to(dtype)
    here, inside = m[:, None] * outputs + n[None], is_row & (n < outputs)[None]
    if IS_GATED:
        gate = y.to(tl.float32)
        y = (gate / (1 + tl.exp(-gate))).to(dtype) * ups.to(dtype)
    if HAS_RESIDUAL:
        y = tl.load(residual + here, inside, 0.0) + y
    tl.store(out + here, y, inside)


def project(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm: tuple[Tensor, float] | None = None,
    residual: Tensor | None = None,
    gated: bool = False,
) -> Tensor:
    """A matrix product, with what lies before and behind it.

    Args:
        x: (rows, width).
        weight: (outputs, width); gates, and then what they let through, if it is `gated`.
        bias: (outputs,).
        norm: Weight (width,) and epsilon of an RMS norm of `x`.
        residual: (rows, outputs), what the product is added to.
        gated: Whether the result is silu(gate) * up, (rows, outputs / 2).
    """
    rows, width = x.shape
    outputs = weight.shape[0] // (1 + gated)
    out = x.new_empty(rows, outputs)
    scale, eps = norm or (x, 0.0)
    m = _DOT if rows <= _DOT else 2 * _DOT
    n = 2 * _DOT if outputs >= _MANY_OUTPUTS and not gated else _DOT
    _project[(triton.cdiv(rows, m), triton.cdiv(outputs, n))](
        *(x, weight, x if bias is None else bias, scale, x if residual is None else residual),
        *(out, rows, width, outputs, eps),
        HAS_NORM=norm is not None, HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None, IS_GATED=gated,
        BLOCK_M=m, BLOCK_N=n, BLOCK_K=_INPUTS, NORMED=_NORMED, num_warps=4, num_stages=4,
    )  # fmt: skip
    return out
