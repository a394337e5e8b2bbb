"""What a decode step on a GPU computes between its matrix products, in OpenAI's Triton.

That Triton is a language for kernels, which comes with torch for CUDA; it has only the name in
common with the server. With TRITON_INTERPRET=1 the kernels run on a CPU. Everything is computed in
float32 and rounded where `engine.lm.layers` rounds. No result of a row depends on other rows.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu_early import next_may_start, options, ready


# Or each number of rows would be compiled for.
@triton.jit(do_not_specialize=["rows"])
def _add_norm(
    x, added, weight, total, out, rows, dim, eps,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, WIDTH)
    inside = columns < dim
    scale = tl.load(weight + columns, inside, 0.0)
    ready(EARLY)
    value = tl.load(x + row * dim + columns, inside, 0.0)
    if PARTS > 0:
        more = tl.load(added + row * dim + columns, inside, 0.0)
        for i in tl.static_range(1, PARTS):
            more += tl.load(added + (i * rows + row) * dim + columns, inside, 0.0)
        value += more.to(value.dtype)
        tl.store(total + row * dim + columns, value, inside)
    y = value.to(tl.float32)
    y = y * tl.rsqrt(tl.sum(y * y, 0) / dim + eps)
    tl.store(out + row * dim + columns, y.to(value.dtype) * scale, inside)


def add_norm(x: Tensor, added: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Add, where there is something to add, to x (rows, dim); the sum and its RMS norm.

    What is added is (rows, dim), or float32 (parts, rows, dim), which are first added up.
    """
    rows, dim = x.shape
    total = x if added is None else torch.empty_like(x)
    out = torch.empty_like(x)
    width = triton.next_power_of_2(dim)
    _add_norm[(rows,)](
        *(x, x if added is None else added, weight, total, out, rows, dim, eps),
        PARTS=0 if added is None else added.numel() // x.numel(), WIDTH=width,
        num_warps=8 if width > 2048 else 4, **options(x),
    )  # fmt: skip
    return total, out


@triton.jit
def _embed(
    tokens, table, code_table, out, dim, size, begin, end, divisor, stride,
    BOOKS: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < dim
    token = tl.load(tokens + row * stride)
    x = tl.load(table + token * dim + columns, inside, 0.0)
    if BOOKS > 0:
        codes = tl.zeros((WIDTH,), tl.float32)
        for i in tl.static_range(BOOKS):
            entry = i * size + tl.load(tokens + row * stride + 1 + i)
            codes += tl.load(code_table + entry * dim + columns, inside, 0.0).to(tl.float32)
        whole = (x + codes.to(x.dtype)).to(tl.float32) / divisor
        x = tl.where((token >= begin) & (token <= end), whole.to(x.dtype), x)
    tl.store(out + row * dim + columns, x, inside)


class Codes(NamedTuple):
    """What the codes of a frame are embedded with: see `engine.lm.graphs.SlowGraph.embed`.

    Attributes:
        table: (codebooks * size, dim), an entry for each code of each codebook.
        size: Of a codebook.
        begin, end: The first and the last token beside which codes count.
        divisor: Of the sum of all entries.
    """

    table: Tensor
    size: int
    begin: int
    end: int
    divisor: float


def embed(tokens: Tensor, table: Tensor, codes: Codes | None = None) -> Tensor:
    """Entries of tokens, and the codes beside them.

    Args:
        tokens: int64 (rows,), or (rows, 1 + codebooks) with `codes`.
        table: (tokens, dim).
        codes: What codes are embedded with.

    Returns:
        (rows, dim).
    """
    rows, dim = len(tokens), table.shape[1]
    out = table.new_empty(rows, dim)
    width = 512
    of_codes = codes or Codes(table, 0, 0, 0, 1.0)
    _embed[(rows, triton.cdiv(dim, width))](
        *(tokens, table, of_codes.table, out, dim, *of_codes[1:], tokens.stride(0)),
        BOOKS=tokens.shape[1] - 1 if codes else 0, WIDTH=width, **options(table),
    )  # fmt: skip
    return out


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
def _least(order, mass, low, high, limit, MARKS: tl.constexpr, TURNS: tl.constexpr):
    """The least number from which on all mass is within the limit, and the one before it.

    Between `low`, from which on it is not, and `high`, from which on it is. Each turn looks at as
    many numbers as there are marks, and leaves one part between two of them.
    """
    for _ in range(TURNS):
        step = (high - low + MARKS) // (MARKS + 1)
        marks = (low + step * (1 + tl.arange(0, MARKS))).to(tl.int32)
        behind = tl.sum(tl.where(order[:, None] >= marks[None], mass[:, None], 0), 0)
        beyond = tl.sum(tl.where(behind > limit, 1, 0), 0)
        low += step * beyond
        high = tl.minimum(low + step, high)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def _sample(
    logits, previous, temperature, top_p, penalty, draws, top_k, out, choices,
    logits_stride, previous_stride, draws_stride,
    WINDOW: tl.constexpr, HAS_TOP_K: tl.constexpr, WIDTH: tl.constexpr,
    MARKS: tl.constexpr, TURNS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    row = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, WIDTH)
    inside = index < choices
    x = tl.load(logits + row * logits_stride + index, inside, 0.0).to(tl.float32)
    said = index < 0
    for i in tl.static_range(WINDOW):  # all are on their way at once
        said = said | (index == tl.load(previous + row * previous_stride + i))
    factor = tl.load(penalty + row)
    x = tl.where(said, tl.where(x < 0, x * factor, x / factor), x)
    x = tl.where(inside, x, float("-inf"))
    best, first = tl.max(x, 0), tl.argmax(x, 0)
    mass = tl.exp(x - best)
    mass /= tl.sum(mass, 0)
    # Integers in the order of the numbers.
    bits = x.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    low, high = tl.min(order, 0).to(tl.int64) - 1, tl.max(order, 0).to(tl.int64) + 1
    _, least = _least(order, mass, low, high, tl.load(top_p + row), MARKS, TURNS)
    keep = (order >= least) | (index == first)
    if HAS_TOP_K:
        # The same search by count; of those that equal the first number left out, some may stay.
        most = tl.load(top_k + row)
        most = tl.where(most > 0, most, choices).to(tl.int32)
        ones = tl.where(inside, 1, 0)
        last, least = _least(order, ones, low, high, most, MARKS, TURNS)
        above = (order >= least) & inside
        level = tl.where((order == last) & inside, 1, 0)
        left = most - tl.sum(tl.where(above, 1, 0), 0)
        keep = keep & (above | ((level > 0) & (tl.cumsum(level, 0) <= left)))
    seed, counter = tl.load(draws + row * draws_stride), tl.load(draws + row * draws_stride + 1)
    zero = index * 0
    drawn, _a, _b, _c = tl.philox(seed, index, zero + counter.to(tl.int32), zero, zero)
    uniform = ((drawn >> 8).to(tl.float32) + 0.5) / 16777216.0
    # Made again, since registers that keep it would be missing in the search.
    x = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
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
    marks = 4 if width <= 2048 else 1  # a thread has registers for so many
    _sample[(rows,)](
        *(logits, previous, temperature, top_p, repetition_penalty, draws),
        *(draws if top_k is None else top_k.contiguous(), out),
        *(choices, logits.stride(0), previous.stride(0), draws.stride(0)),
        WINDOW=previous.shape[1], HAS_TOP_K=top_k is not None, WIDTH=width,
        MARKS=marks, TURNS=math.ceil(33 / math.log2(marks + 1)),  # 33 bits tell any two apart
        # Many warps: each has few instructions, which must be fetched anew at every launch.
        num_warps=16 if width <= 4096 else 32, **options(logits),
    )  # fmt: skip
    return out
