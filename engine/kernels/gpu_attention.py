"""Attention of a few new positions on a GPU, in OpenAI's Triton.

They take any few positions; `engine.kernels.gpu_attend_one` takes one of each row. Everything is
computed in float32 and rounded where `engine.lm.layers` rounds. No result of a row depends on other
rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu_early import next_may_start, options, ready

POSITIONS = 64  # positions that attention takes at a time
PARTS = 8  # parts of a row's positions, which different blocks of threads attend to
SMALLEST_SIDE = 16  # the smallest side of a tile that `tl.dot` takes


@triton.jit
def normed(a, b, weight, pairs, inside, head_dim, eps):
    """Even and odd elements of heads, (count, pairs), normed."""
    x, y = a.to(tl.float32), b.to(tl.float32)
    scale = tl.rsqrt((tl.sum(x * x, 1) + tl.sum(y * y, 1)) / head_dim + eps)[:, None]
    even = tl.load(weight + 2 * pairs, inside, 0.0)[None]
    odd = tl.load(weight + 2 * pairs + 1, inside, 0.0)[None]
    return (x * scale).to(a.dtype) * even, (y * scale).to(b.dtype) * odd


@triton.jit
def turned(a, b, cos, sin):
    """Even and odd elements of heads, rotated and put in order: (count, head_dim)."""
    x, y = a.to(tl.float32), b.to(tl.float32)
    return tl.interleave((x * cos - y * sin).to(a.dtype), (y * cos + x * sin).to(b.dtype))


@triton.jit
def _place(
    qkv, q_weight, k_weight, cos_sin, past, queries, keys, values,
    time, heads, kv_heads, head_dim, eps, row_stride, head_stride, position_stride,
    HAS_NORM: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = token // time
    position = tl.load(past + row) + token % time
    pairs = tl.arange(0, HALF)
    inside = pairs < head_dim // 2
    source = qkv + (token * (heads + 2 * kv_heads) + head) * head_dim + 2 * pairs
    a, b = tl.load(source, inside, 0.0)[None], tl.load(source + 1, inside, 0.0)[None]
    if head < heads + kv_heads:
        if HAS_NORM:
            weight = q_weight
            if head >= heads:
                weight = k_weight
            a, b = normed(a, b, weight, pairs, inside, head_dim, eps)
        turn = cos_sin + position * head_dim + 2 * pairs
        cos, sin = tl.load(turn, inside, 0.0)[None], tl.load(turn + 1, inside, 0.0)[None]
        whole = turned(a, b, cos, sin)
    else:
        whole = tl.interleave(a, b)
    if head < heads:
        target = queries + (token * heads + head) * head_dim
    else:
        target = keys
        kv_head = head - heads
        if head >= heads + kv_heads:
            target = values
            kv_head -= kv_heads
        target += row * row_stride + kv_head * head_stride + position * position_stride
    column = tl.arange(0, WIDTH)
    tl.store(target + column[None], whole, (column < head_dim)[None])


def place(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    cos_sin: Tensor,
    past: Tensor,
    keys: Tensor,
    values: Tensor,
) -> Tensor:
    """Norm and rotate queries and keys, and write keys and values behind the cached ones.

    Args:
        qkv: (rows * time, (heads + 2 * kv heads) * head_dim).
        norms: Weights of queries' and keys' norms, (head_dim,) each.
        eps: Of these norms.
        cos_sin: float32 (positions, head_dim / 2, 2).
        past: int64 (rows,), positions cached.
        keys, values: (rows, kv heads, positions, head_dim), of equal strides.

    Returns:
        Queries (rows * time, heads, head_dim).
    """
    kv_heads, head_dim = keys.shape[1], keys.shape[3]
    tokens, slots = qkv.shape[0], qkv.shape[1] // head_dim
    heads = slots - 2 * kv_heads
    queries = qkv.new_empty(tokens, heads, head_dim)
    half = triton.next_power_of_2(head_dim // 2)
    _place[(tokens, slots)](
        *(qkv, *(norms or (qkv, qkv)), cos_sin, past, queries, keys, values),
        *(tokens // len(past), heads, kv_heads, head_dim, eps, *keys.stride()[:3]),
        HAS_NORM=norms is not None, HALF=half, WIDTH=2 * half, num_warps=1, **options(qkv),
    )  # fmt: skip
    return queries


@triton.jit
def over_cached(
    q, keys, values, cache, position_stride, column, wide, begin, end, scale,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Attend to cached positions from `begin` to before `end`.

    Returns the largest score, the sum of all shares relative to it, and the values by their shares.
    """
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
    return most, total, found


@triton.jit
def _attend(
    queries, keys, values, past, parts, sums, time, kv_heads, groups, head_dim, scale,
    row_stride, head_stride, position_stride,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    token, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row = token // time
    length = tl.load(past + row) + token % time + 1
    share = tl.cdiv(tl.cdiv(length, BLOCK), SPLITS) * BLOCK
    begin = split * share
    end = tl.minimum(begin + share, length)
    group, column = tl.arange(0, GROUPS), tl.arange(0, WIDTH)
    wide = column < head_dim
    here = (token * kv_heads + kv_head) * groups + group
    is_group = (group < groups)[:, None]
    q = tl.load(queries + here[:, None] * head_dim + column, is_group & wide, 0.0)
    cache = row * row_stride + kv_head * head_stride
    most, total, found = over_cached(
        q, keys, values, cache, position_stride, column, wide, begin, end, scale,
        GROUPS, WIDTH, BLOCK,
    )  # fmt: skip
    out = here * SPLITS + split
    tl.store(parts + out[:, None] * head_dim + column, found, is_group & wide)
    tl.store(sums + out * 2, most, group < groups)
    tl.store(sums + out * 2 + 1, total, group < groups)


@triton.jit
def _join(
    parts, sums, out, head_dim, WIDTH: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr
):
    next_may_start(EARLY)
    ready(EARLY)
    head = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    wide = column < head_dim
    here = head * SPLITS + split
    most, total = tl.load(sums + here * 2), tl.load(sums + here * 2 + 1)
    shares = tl.exp(most - tl.max(most, 0))
    found = tl.load(parts + here[:, None] * head_dim + column, wide[None], 0.0)
    found = tl.where(total[:, None] > 0, found, 0.0)  # a part that had nothing to do wrote none
    y = tl.sum(found * shares[:, None], 0) / tl.sum(total * shares, 0)
    tl.store(out + head * head_dim + column, y.to(out.dtype.element_ty), wide)


def attend(queries: Tensor, keys: Tensor, values: Tensor, past: Tensor) -> Tensor:
    """Attend from a few new positions to those cached, themselves included.

    Args:
        queries: (rows * time, heads, head_dim).
        keys, values: As `place` has left them, with the new positions.
        past: int64 (rows,), positions before the new ones.

    Returns:
        (rows * time, heads * head_dim).
    """
    tokens, heads, head_dim = queries.shape
    kv_heads = keys.shape[1]
    groups = heads // kv_heads
    width = max(SMALLEST_SIDE, triton.next_power_of_2(head_dim))
    parts = queries.new_empty(tokens, heads, PARTS, head_dim, dtype=torch.float32)
    sums = queries.new_empty(tokens, heads, PARTS, 2, dtype=torch.float32)
    _attend[(tokens, kv_heads, PARTS)](
        *(queries, keys, values, past, parts, sums, tokens // len(past), kv_heads, groups),
        *(head_dim, head_dim**-0.5, *keys.stride()[:3]),
        GROUPS=max(SMALLEST_SIDE, triton.next_power_of_2(groups)),
        WIDTH=width, BLOCK=POSITIONS, SPLITS=PARTS, **options(queries),
    )  # fmt: skip
    out = queries.new_empty(tokens, heads * head_dim)
    joined(parts, sums, out)
    return out


def joined(parts: Tensor, sums: Tensor, out: Tensor) -> None:
    """Put together what different blocks of threads have found for the same queries.

    Args:
        parts: float32 (tokens, heads, splits, head_dim), not divided by their sums.
        sums: float32 (tokens, heads, splits, 2), the largest score, and the sum of all shares.
        out: (tokens, heads * head_dim), written.
    """
    tokens, heads, splits, head_dim = parts.shape
    width = triton.next_power_of_2(head_dim)
    _join[(tokens * heads,)](
        parts, sums, out, head_dim, WIDTH=width, SPLITS=splits, **options(parts)
    )
