"""What a decode step on a GPU computes between its matrix products, in OpenAI's Triton.

That Triton is a language for kernels, which comes with torch for CUDA; it has only the name in
common with the server. With TRITON_INTERPRET=1 the kernels run on a CPU. Everything is computed in
float32 and rounded where `engine.lm.layers` rounds. No result of a row depends on other rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 64  # positions that attention takes at a time
_SPLITS = 8  # parts of a row's positions, which different blocks of threads attend to
_DOT = 16  # the smallest side of a tile that `tl.dot` takes


@triton.jit
def _add_norm(x, added, weight, total, out, dim, eps, HAS_ADDED: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < dim
    value = tl.load(x + row * dim + columns, inside, 0.0)
    if HAS_ADDED:
        value += tl.load(added + row * dim + columns, inside, 0.0)
        tl.store(total + row * dim + columns, value, inside)
    y = value.to(tl.float32)
    y = y * tl.rsqrt(tl.sum(y * y, 0) / dim + eps)
    scale = tl.load(weight + columns, inside, 0.0)
    tl.store(out + row * dim + columns, y.to(value.dtype) * scale, inside)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add, where there is something to add, to x (rows, dim); the sum and its RMS norm."""
    rows, dim = x.shape
    total = x if added is None else torch.empty_like(x)
    out = torch.empty_like(x)
    width = triton.next_power_of_2(dim)
    _add_norm[(rows,)](
        *(x, x if added is None else added, weight, total, out, dim, eps),
        HAS_ADDED=added is not None, WIDTH=width, num_warps=8 if width > 2048 else 4,
    )  # fmt: skip
    return total, out


@triton.jit
def _gated(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(gate_up + row * 2 * width + columns, inside, 0.0)
    up = tl.load(gate_up + (row * 2 + 1) * width + columns, inside, 0.0)
    g = gate.to(tl.float32)
    tl.store(out + row * width + columns, (g / (1 + tl.exp(-g))).to(gate.dtype) * up, inside)


def gated(gate_up: Tensor) -> Tensor:
    """Compute silu(gate) * up: (rows, 2 * width) -> (rows, width)."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(rows, width)
    block = 1024
    _gated[(rows, triton.cdiv(width, block))](gate_up, out, width, BLOCK=block)
    return out


@triton.jit
def _place(
    qkv, q_weight, k_weight, cos_sin, past, queries, keys, values,
    time, heads, kv_heads, head_dim, eps, row_stride, head_stride, position_stride,
    HAS_NORM: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = token // time
    position = tl.load(past + row) + token % time
    pairs = tl.arange(0, HALF)
    inside = pairs < head_dim // 2
    source = qkv + (token * (heads + 2 * kv_heads) + head) * head_dim + 2 * pairs
    a, b = tl.load(source, inside, 0.0), tl.load(source + 1, inside, 0.0)
    if head < heads + kv_heads:
        if HAS_NORM:
            weight = q_weight
            if head >= heads:
                weight = k_weight
            x, y = a.to(tl.float32), b.to(tl.float32)
            scale = tl.rsqrt((tl.sum(x * x, 0) + tl.sum(y * y, 0)) / head_dim + eps)
            a = (x * scale).to(a.dtype) * tl.load(weight + 2 * pairs, inside, 0.0)
            b = (y * scale).to(b.dtype) * tl.load(weight + 2 * pairs + 1, inside, 0.0)
        turn = cos_sin + position * head_dim + 2 * pairs
        cos, sin = tl.load(turn, inside, 0.0), tl.load(turn + 1, inside, 0.0)
        x, y = a.to(tl.float32), b.to(tl.float32)
        a, b = (x * cos - y * sin).to(a.dtype), (y * cos + x * sin).to(b.dtype)
    if head < heads:
        target = queries + (token * heads + head) * head_dim
    else:
        target = keys
        kv_head = head - heads
        if head >= heads + kv_heads:
            target = values
            kv_head -= kv_heads
        target += row * row_stride + kv_head * head_stride + position * position_stride
    tl.store(target + 2 * pairs, a, inside)
    tl.store(target + 2 * pairs + 1, b, inside)


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
    _place[(tokens, slots)](
        *(qkv, *(norms or (qkv, qkv)), cos_sin, past, queries, keys, values),
        *(tokens // len(past), heads, kv_heads, head_dim, eps, *keys.stride()[:3]),
        HAS_NORM=norms is not None, HALF=triton.next_power_of_2(head_dim // 2), num_warps=1,
    )  # fmt: skip
    return queries


@triton.jit
def _attend(
    queries, keys, values, past, parts, sums, time, kv_heads, groups, head_dim, scale,
    row_stride, head_stride, position_stride,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
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
    out = here * SPLITS + split
    tl.store(parts + out[:, None] * head_dim + column, found, is_group & wide)
    tl.store(sums + out * 2, most, group < groups)
    tl.store(sums + out * 2 + 1, total, group < groups)


@triton.jit
def _join(parts, sums, out, head_dim, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    wide = column < head_dim
    here = head * SPLITS + split
    most, total = tl.load(sums + here * 2), tl.load(sums + here * 2 + 1)
    shares = tl.exp(most - tl.max(most, 0))
    found = tl.load(parts + here[:, None] * head_dim + column, wide[None], 0.0)
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
    width = max(_DOT, triton.next_power_of_2(head_dim))
    parts = queries.new_empty(tokens, heads, _SPLITS, head_dim, dtype=torch.float32)
    sums = queries.new_empty(tokens, heads, _SPLITS, 2, dtype=torch.float32)
    _attend[(tokens, kv_heads, _SPLITS)](
        *(queries, keys, values, past, parts, sums, tokens // len(past), kv_heads, groups),
        *(head_dim, head_dim**-0.5, *keys.stride()[:3]),
        GROUPS=max(_DOT, triton.next_power_of_2(groups)),
        WIDTH=width, BLOCK=_BLOCK, SPLITS=_SPLITS,
    )  # fmt: skip
    out = queries.new_empty(tokens, heads * head_dim)
    join(parts, sums, out)
    return out


def join(parts: Tensor, sums: Tensor, out: Tensor) -> None:
    """Put together what different blocks of threads have found for the same queries.

    Args:
        parts: float32 (tokens, heads, splits, head_dim), not divided by their sums.
        sums: float32 (tokens, heads, splits, 2), the largest score, and the sum of all shares.
        out: (tokens, heads * head_dim), written.
    """
    tokens, heads, splits, head_dim = parts.shape
    width = triton.next_power_of_2(head_dim)
    _join[(tokens * heads,)](parts, sums, out, head_dim, WIDTH=width, SPLITS=splits)


@triton.jit
def _sample(
    logits, previous, temperature, top_p, penalty, draws, top_k, out, choices, window,
    logits_stride, previous_stride, draws_stride, HAS_TOP_K: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, WIDTH)
    inside = index < choices
    x = tl.load(logits + row * logits_stride + index, inside, 0.0).to(tl.float32)
    said = index < 0
    for i in range(window):
        said = said | (index == tl.load(previous + row * previous_stride + i))
    factor = tl.load(penalty + row)
    x = tl.where(said, tl.where(x < 0, x * factor, x / factor), x)
    x = tl.where(inside, x, float("-inf"))
    best, first = tl.max(x, 0), tl.argmax(x, 0)
    mass = tl.exp(x - best)
    mass /= tl.sum(mass, 0)
    # Integers in the order of the numbers. A binary search finds the least one for which the mass
    # of all from it on is within top_p.
    bits = x.to(tl.int32, bitcast=True)
    order = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)
    low, high = tl.min(order, 0) - 1, tl.max(order, 0) + 1
    limit = tl.load(top_p + row)
    for _ in range(33):
        middle = (low + high) >> 1
        fits = tl.sum(tl.where(order >= middle, mass, 0.0), 0) <= limit
        high = tl.where(fits, middle, high)
        low = tl.where(fits, low, middle)
    keep = (order >= high) | (index == first)
    if HAS_TOP_K:
        # The same search by count; of those that equal the first number left out, some may stay.
        most = tl.load(top_k + row)
        most = tl.where(most > 0, most, choices)
        low, high = tl.min(order, 0) - 1, tl.max(order, 0) + 1
        for _ in range(33):
            middle = (low + high) >> 1
            fits = tl.sum(tl.where((order >= middle) & inside, 1, 0), 0) <= most
            high = tl.where(fits, middle, high)
            low = tl.where(fits, low, middle)
        above = (order >= high) & inside
        level = tl.where((order == low) & inside, 1, 0)
        left = most - tl.sum(tl.where(above, 1, 0), 0)
        keep = keep & (above | ((level > 0) & (tl.cumsum(level, 0) <= left)))
    seed, counter = tl.load(draws + row * draws_stride), tl.load(draws + row * draws_stride + 1)
    zero = index * 0
    drawn, _a, _b, _c = tl.philox(seed, index, zero + counter.to(tl.int32), zero, zero)
    uniform = ((drawn >> 8).to(tl.float32) + 0.5) / 16777216.0
    # argmax(p / Exp(1)) is a draw from p.
    score = (x - best) / tl.maximum(tl.load(temperature + row), 1e-5) - tl.log(-tl.log(uniform))
    chosen = tl.argmax(tl.where(keep & inside, score, float("-inf")), 0)
    tl.store(out + row, tl.minimum(chosen, choices - 1).to(tl.int64))


def sample(
    logits: Tensor,
    previous: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    repetition_penalty: Tensor,
    draws: Tensor,
    top_k: Tensor | None = None,
) -> Tensor:
    """Sample as `engine.lm.sampler.sample` does, but of equal logits all or none are within top_p.

    Args:
        logits: As that function takes them, `engine.lm.on_gpu.MAX_CHOICES` at most.
        previous, temperature, top_p, repetition_penalty, top_k: As that function takes them.
        draws: int64 (batch, 2), seed and counter of each row's random numbers.
    """
    rows, choices = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    width = triton.next_power_of_2(choices)
    _sample[(rows,)](
        *(logits, previous, temperature, top_p, repetition_penalty, draws),
        *(draws if top_k is None else top_k.contiguous(), out),
        *(choices, previous.shape[1], logits.stride(0), previous.stride(0), draws.stride(0)),
        HAS_TOP_K=top_k is not None, WIDTH=width,
        num_warps=max(4, min(32, width // 512)),  # 16 logits for a thread: more fill its registers
    )  # fmt: skip
    return out
