"""What a decode step of a transformer on a GPU is made of, in OpenAI's Triton: five or six launches
a layer, since a launch costs as much as reading a small matrix.

Everything is computed in float32 and rounded where `engine.lm.layers` rounds. Tiles depend on
neither the values nor the number of other rows, but for their height, which changes no sum.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu import join

_DOT = 16  # the smallest side of a tile that `tl.dot` takes
_INPUTS = 256  # of a matrix that a block of threads takes at a time
_NORMED = 512  # of a row whose norm it takes: more at a time, for each waits for the one before
_MANY_OUTPUTS = 4096  # from which on blocks of threads take 32 each and still keep the GPU busy
_BLOCK = 64  # positions that attention takes at a time
SPLITS = 8  # parts of a row's positions, which different blocks of threads attend to
_FEW = 16  # room of a row that one block of threads attends to alone


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


@triton.jit
def _normed(a, b, weight, pairs, inside, head_dim, eps):
    """Even and odd elements of heads, (count, pairs), normed."""
    x, y = a.to(tl.float32), b.to(tl.float32)
    scale = tl.rsqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / head_dim + eps)[:, None]
    even = tl.load(weight + 2 * pairs, inside, 0.0)[None]
    odd = tl.load(weight + 2 * pairs + 1, inside, 0.0)[None]
    return (x * scale).to(a.dtype) * even, (y * scale).to(b.dtype) * odd


@triton.jit
def _turned(a, b, cos, sin):
    """The same, rotated and put in order: (count, head_dim)."""
    x, y = a.to(tl.float32), b.to(tl.float32)
    return tl.interleave((x * cos - y * sin).to(a.dtype), (y * cos + x * sin).to(b.dtype))


@triton.jit
def _attend_one(
    qkv, q_weight, k_weight, cos_sin, past, keys, values, parts, sums, out,
    kv_heads, groups, head_dim, eps, scale, row_stride, head_stride, position_stride,
    HAS_NORM: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position = tl.load(past + row)
    share = tl.cdiv(tl.cdiv(position + 1, BLOCK), SPLITS) * BLOCK
    if SPLITS > 1:
        share = tl.maximum(share, 2 * BLOCK)  # shorter parts are mostly a beginning and an end
    begin = split * share
    end = tl.minimum(begin + share, position)  # of what is cached
    pairs, column, group = tl.arange(0, HALF), tl.arange(0, WIDTH), tl.arange(0, GROUPS)
    inside, wide = pairs < head_dim // 2, column < head_dim
    is_group = (group < groups)[:, None]
    turn = cos_sin + position * head_dim + 2 * pairs
    cos, sin = tl.load(turn, inside, 0.0)[None], tl.load(turn + 1, inside, 0.0)[None]
    slots = kv_heads * (groups + 2)
    source = qkv + (row * slots + kv_head * groups + group)[:, None] * head_dim + 2 * pairs[None]
    seen = is_group & inside[None]
    a, b = tl.load(source, seen, 0.0), tl.load(source + 1, seen, 0.0)
    if HAS_NORM:
        a, b = _normed(a, b, q_weight, pairs, inside, head_dim, eps)
    q = _turned(a, b, cos, sin)
    cache = row * row_stride + kv_head * head_stride
    most = tl.full((GROUPS,), -1e30, tl.float32)
    total = tl.zeros((GROUPS,), tl.float32)
    found = tl.zeros((GROUPS, WIDTH), tl.float32)
    for first in range(begin, end, BLOCK):
        positions = first + tl.arange(0, BLOCK)
        there = positions < end
        at = cache + positions[:, None] * position_stride + column
        k = tl.load(keys + at, there[:, None] & wide, 0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(there[None], score, -1e30)
        larger = tl.maximum(most, tl.max(score, 1))
        shares = tl.exp(score - larger[:, None])
        fade = tl.exp(most - larger)
        total = total * fade + tl.sum(shares, 1)
        v = tl.load(values + at, there[:, None] & wide, 0.0)
        found = found * fade[:, None] + tl.dot(shares.to(v.dtype), v, input_precision="ieee")
        most = larger
    if (begin <= position) & (position < begin + share):  # the new one, which is cached here too
        mine = qkv + (row * slots + kv_heads * groups + kv_head) * head_dim
        even = tl.load(mine + 2 * pairs, inside, 0.0)[None]
        odd = tl.load(mine + 2 * pairs + 1, inside, 0.0)[None]
        if HAS_NORM:
            even, odd = _normed(even, odd, k_weight, pairs, inside, head_dim, eps)
        key = _turned(even, odd, cos, sin)
        value = tl.load(mine + kv_heads * head_dim + column, wide, 0.0)
        place = cache + position * position_stride + column
        tl.store(keys + place[None], key, wide[None])
        tl.store(values + place, value, wide)
        its_score = tl.sum(q.to(tl.float32) * key.to(tl.float32), 1) * scale
        its_most = tl.maximum(most, its_score)
        its_share, its_fade = tl.exp(its_score - its_most), tl.exp(most - its_most)
        total = total * its_fade + its_share
        added = its_share.to(value.dtype).to(tl.float32)[:, None] * value.to(tl.float32)[None]
        found = found * its_fade[:, None] + added
        most = its_most
    here = (row * kv_heads + kv_head) * groups + group
    if SPLITS == 1:
        y = (found / total[:, None]).to(qkv.dtype.element_ty)
        tl.store(out + here[:, None] * head_dim + column, y, is_group & wide)
    else:
        here = here * SPLITS + split
        tl.store(parts + here[:, None] * head_dim + column, found, is_group & wide)
        tl.store(sums + here * 2, most, group < groups)
        tl.store(sums + here * 2 + 1, total, group < groups)


def attend_one(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    cos_sin: Tensor,
    past: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Attend from one new position of each row to those cached and itself, and cache it.

    Args:
        qkv: (rows, (heads + 2 * kv heads) * head_dim).
        norms, eps, cos_sin, past, keys, values: As `gpu.place` takes them.

    Returns:
        (rows, heads * head_dim).
    """
    rows, kv_heads, room, head_dim = keys.shape
    groups = qkv.shape[1] // head_dim // kv_heads - 2
    heads, splits = kv_heads * groups, 1 if room <= _FEW else SPLITS
    out = qkv.new_empty(rows, heads * head_dim)
    parts = sums = out
    if splits > 1:
        parts = qkv.new_empty(rows, heads, splits, head_dim, dtype=torch.float32)
        sums = qkv.new_empty(rows, heads, splits, 2, dtype=torch.float32)
    half = max(_DOT // 2, triton.next_power_of_2(head_dim // 2))
    _attend_one[(rows, kv_heads, splits)](
        *(qkv, *(norms or (qkv, qkv)), cos_sin, past, keys, values, parts, sums, out),
        *(kv_heads, groups, head_dim, eps, head_dim**-0.5, *keys.stride()[:3]),
        HAS_NORM=norms is not None, GROUPS=max(_DOT, triton.next_power_of_2(groups)),
        HALF=half, WIDTH=2 * half, BLOCK=_DOT if splits == 1 else _BLOCK, SPLITS=splits,
    )  # fmt: skip
    if splits > 1:
        join(parts, sums, out)
    return out
