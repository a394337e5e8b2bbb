"""Attention of one new position of each row on a GPU, in a single launch of OpenAI's Triton.

It computes and rounds as `engine.kernels.gpu_attention` does: no result of a row depends on others.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu_attention import (
    PARTS,
    POSITIONS,
    SMALLEST_SIDE,
    joined,
    normed,
    over_cached,
    turned,
)
from engine.kernels.gpu_early import next_may_start, options, ready

_FEW = 16  # room of a row that one block of threads attends to alone


@triton.jit
def _attend_one(
    qkv, q_weight, k_weight, cos_sin, past, keys, values, parts, sums, out,
    kv_heads, groups, head_dim, eps, scale, row_stride, head_stride, position_stride,
    HAS_NORM: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    position = tl.load(past + row)
    share = tl.cdiv(tl.cdiv(position + 1, BLOCK), SPLITS) * BLOCK
    if SPLITS > 1:
        share = tl.maximum(share, 2 * BLOCK)  # shorter parts are mostly a beginning and an end
    begin = split * share
    end = tl.minimum(begin + share, position)  # of what is cached
    pairs, column, group = tl.arange(0, HALF), tl.arange(0, WIDTH), tl.arange(0, GROUPS)
    here = (row * kv_heads + kv_head) * groups + group
    if (SPLITS > 1) & (begin > position):  # nothing is left for this part
        tl.store(
            sums + (here * SPLITS + split) * 2,
            tl.full((GROUPS,), -1e30, tl.float32),
            group < groups,
        )
        tl.store(
            sums + (here * SPLITS + split) * 2 + 1, tl.zeros((GROUPS,), tl.float32), group < groups
        )
        return
    inside, wide = pairs < head_dim // 2, column < head_dim
    is_group = (group < groups)[:, None]
    turn = cos_sin + position * head_dim + 2 * pairs
    cos, sin = tl.load(turn, inside, 0.0)[None], tl.load(turn + 1, inside, 0.0)[None]
    slots = kv_heads * (groups + 2)
    source = qkv + (row * slots + kv_head * groups + group)[:, None] * head_dim + 2 * pairs[None]
    seen = is_group & inside[None]
    a, b = tl.load(source, seen, 0.0), tl.load(source + 1, seen, 0.0)
    if HAS_NORM:
        a, b = normed(a, b, q_weight, pairs, inside, head_dim, eps)
    q = turned(a, b, cos, sin)
    cache = row * row_stride + kv_head * head_stride
    most, total, found = over_cached(
        q, keys, values, cache, position_stride, column, wide, begin, end, scale,
        GROUPS, WIDTH, BLOCK,
    )  # fmt: skip
    if (begin <= position) & (position < begin + share):  # the new one, which is cached here too
        mine = qkv + (row * slots + kv_heads * groups + kv_head) * head_dim
        even = tl.load(mine + 2 * pairs, inside, 0.0)[None]
        odd = tl.load(mine + 2 * pairs + 1, inside, 0.0)[None]
        if HAS_NORM:
            even, odd = normed(even, odd, k_weight, pairs, inside, head_dim, eps)
        key = turned(even, odd, cos, sin)
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
        norms, eps, cos_sin, past, keys, values: As `place` takes them.

    Returns:
        (rows, heads * head_dim).
    """
    rows, kv_heads, room, head_dim = keys.shape
    groups = qkv.shape[1] // head_dim // kv_heads - 2
    heads, splits = kv_heads * groups, 1 if room <= _FEW else PARTS
    out = qkv.new_empty(rows, heads * head_dim)
    parts = sums = out
    if splits > 1:
        parts = qkv.new_empty(rows, heads, splits, head_dim, dtype=torch.float32)
        sums = qkv.new_empty(rows, heads, splits, 2, dtype=torch.float32)
    half = max(SMALLEST_SIDE // 2, triton.next_power_of_2(head_dim // 2))
    _attend_one[(rows, kv_heads, splits)](
        *(qkv, *(norms or (qkv, qkv)), cos_sin, past, keys, values, parts, sums, out),
        *(kv_heads, groups, head_dim, eps, head_dim**-0.5, *keys.stride()[:3]),
        HAS_NORM=norms is not None, GROUPS=max(SMALLEST_SIDE, triton.next_power_of_2(groups)),
        HALF=half, WIDTH=2 * half, BLOCK=SMALLEST_SIDE if splits == 1 else POSITIONS, SPLITS=splits,
        **options(qkv),
    )  # fmt: skip
    if splits > 1:
        joined(parts, sums, out)
    return out
