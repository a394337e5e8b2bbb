"""What the codec's decoder on a GPU computes, in OpenAI's Triton: products, and attention.

Operands are of half precision and sums are float32, as tensor cores have them. Tiles depend on a
layer alone, so a result depends neither on where a window begins nor on what else is in the batch.
The same in torch, for a CPU and for tests: `engine.kernels.rounded`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels import gpu
from engine.kernels.gpu_early import next_may_start, options, ready
from engine.kernels.rounded import ACTIVATIONS, Beginning, Conv, Snake

_TIMES, _OUTPUTS, _CHANNELS = 64, 64, 32  # a tile: 64 x 64 sums are 32 registers of 128 threads
_DOT = 16  # the smallest side of a tile that `tl.dot` takes


# Or a window of an unusual length would be compiled for.
@triton.jit(do_not_specialize=["time"])
def _convolve(
    x, weight, low, bias, residual, alpha, history, total, out,
    x_stride, residual_stride, time, channels, outputs, dilation, width, origin, rate,
    TAPS: tl.constexpr, SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    HAS_BEGINNING: tl.constexpr, HAS_TOTAL: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    row = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_time, is_output = (t < time)[:, None], (n < outputs)[None]
    half = weight.dtype.element_ty
    sums = tl.zeros((BLOCK_T, BLOCK_N), tl.float32)
    for tap in range(TAPS):
        for first in range(0, channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            here = row * x_stride + (t[:, None] + tap * dilation) * channels + c[None]
            a = tl.load(x + here, is_time & (c < channels)[None], 0.0)
            at = (tap * channels + c[:, None]) * outputs + n[None]
            inside = (c < channels)[:, None] & is_output
            w = tl.load(weight + at, inside, 0.0)
            high = a.to(half)
            sums = tl.dot(high, w, sums)
            if SPLIT:
                rest = (a.to(tl.float32) - high.to(tl.float32)).to(half)
                sums = tl.dot(rest, w, sums)
                sums = tl.dot(high, tl.load(low + at, inside, 0.0), sums)
    if HAS_BIAS:
        sums += tl.load(bias + n, n < outputs, 0.0)[None]
    if HAS_RESIDUAL:
        here = row * residual_stride + t[:, None].to(tl.int64) * outputs + n[None]
        sums += tl.load(residual + here, is_time & is_output, 0.0)
    if HAS_BEGINNING:  # what lies before the audio is silence
        place = t[:, None] * (outputs // width) + n[None] // width
        sums = tl.where(place < origin - tl.load(history + row) * rate, 0.0, sums)
    here = (row * time + t[:, None]) * outputs + n[None]
    if HAS_TOTAL:
        tl.store(total + here, sums, is_time & is_output)
    if ACTIVATION == 1:
        a = tl.load(alpha + n % width, n < outputs, 1.0)[None]
        wave = tl.sin(a * sums)
        sums += wave * wave / (a + 1e-9)
    elif ACTIVATION == 2:
        sums = 0.5 * sums * (1 + tl.erf(sums * 0.7071067811865476))
    tl.store(out + here, sums.to(out.dtype.element_ty), is_time & is_output)


def convolve(
    x: Tensor,
    conv: Conv,
    dtype: torch.dtype,
    residual: Tensor | None = None,
    beginning: Beginning | None = None,
    activation: Snake | str = "",
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """See `engine.kernels.rounded.convolve`."""
    rows, time, channels = x.shape
    taps, _, outputs = conv.weight.shape
    time -= (taps - 1) * conv.dilation
    out = x.new_empty(rows, time, outputs, dtype=dtype)
    total = x.new_empty(rows, time, outputs, dtype=torch.float32) if keep else None
    alpha = activation if isinstance(activation, Tensor) else None
    history, origin, rate = beginning or (conv.weight, 0, 0)
    few = triton.next_power_of_2
    n, c = (max(_DOT, min(most, few(extent))) for most, extent in (
        (_OUTPUTS, outputs), (_CHANNELS, channels)))  # fmt: skip
    grid = triton.cdiv(time, _TIMES), triton.cdiv(outputs, n), rows
    _convolve[grid](
        *(x, conv.weight, _or(conv.low, x), _or(conv.bias, x), _or(residual, x), _or(alpha, x)),
        *(history, _or(total, out), out, x.stride(0)),
        *(0 if residual is None else residual.stride(0), time, channels, outputs, conv.dilation),
        *(outputs // conv.times, origin, rate),
        TAPS=taps, SPLIT=conv.low is not None, HAS_BIAS=conv.bias is not None,
        HAS_RESIDUAL=residual is not None, HAS_BEGINNING=beginning is not None, HAS_TOTAL=keep,
        ACTIVATION=1 if alpha is not None else ACTIVATIONS.index(activation),
        BLOCK_T=_TIMES, BLOCK_N=n, BLOCK_C=c, **options(x),
    )  # fmt: skip
    return out, total


def _or(tensor: Tensor | None, other: Tensor) -> Tensor:
    """A pointer that is not read where there is none."""
    return other if tensor is None else tensor


@triton.jit(do_not_specialize=["time"])
def _attend(
    queries, keys, values, known, out, row_stride, time, window, head_dim, scale,
    ROOM: tl.constexpr, WIDTH: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    ready(EARLY)
    row, head, t = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    heads = tl.num_programs(1)
    column, offset = tl.arange(0, WIDTH), tl.arange(0, ROOM)
    wide = column < head_dim
    q = tl.load(queries + ((row * time + t) * heads + head) * head_dim + column, wide, 0.0)
    place = t + 1 + offset
    seen = (offset < window) & (place >= window - tl.load(known + row))
    at = head * (window + time) + place[:, None]
    at = row * row_stride + at * head_dim + column[None]
    inside = seen[:, None] & wide[None]
    k = tl.load(keys + at, inside, 0.0).to(tl.float32)
    score = tl.sum(k * q.to(tl.float32)[None], 1) * scale
    score = tl.where(seen, score, float("-inf"))
    share = tl.exp(score - tl.max(score, 0))
    share /= tl.sum(share, 0)
    v = tl.load(values + at, inside, 0.0).to(tl.float32)
    here = ((row * time + t) * heads + head) * head_dim + column
    tl.store(out + here, tl.sum(share[:, None] * v, 0).to(out.dtype.element_ty), wide)


def attend(queries: Tensor, keys: Tensor, values: Tensor, known: Tensor) -> Tensor:
    """See `engine.kernels.rounded.attend`."""
    rows, time, heads, head_dim = queries.shape
    window = keys.shape[2] - time
    out = queries.new_empty(rows, time, heads * head_dim)
    _attend[(rows, heads, time)](
        *(queries, keys, values, known, out, keys.stride(0), time, window, head_dim),
        head_dim**-0.5,
        ROOM=triton.next_power_of_2(window), WIDTH=triton.next_power_of_2(head_dim),
        **options(queries),
    )  # fmt: skip
    return out


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `engine.kernels.rounded.norm`."""
    return gpu.add_norm(x.flatten(0, 1), None, weight, eps)[1].view_as(x)


def gated(x: Tensor) -> Tensor:
    """See `engine.kernels.rounded.gated`."""
    return gpu.gated(x.flatten(0, 1)).unflatten(0, x.shape[:2])
