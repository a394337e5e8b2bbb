"""What a decode step on a GPU computes between its matrix products, in OpenAI's Triton.

That Triton is a language for kernels, which comes with torch for CUDA; it has only the name in
common with the server. With TRITON_INTERPRET=1 the kernels run on a CPU. Everything is computed in
float32 and rounded where `engine.lm.layers` rounds. No result of a row depends on other rows.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


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
