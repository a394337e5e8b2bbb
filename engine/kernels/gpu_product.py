"""A matrix product of a decode step on a GPU, in OpenAI's Triton.

A step with few rows is bound by reading weights. So a block of threads asks for its weights before
it waits for what it multiplies them with, and four warps sum over parts of the depth of their own,
since one sum is a chain of dependent instructions. Sums are float32 and are rounded where
`engine.lm.layers` rounds. Tiles depend on the number of rows, but no sum does: a row has the same
bits beside any number of others.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.kernels.gpu_early import bring_near, next_may_start, options, ready

WARPS, DEPTH = 4, 128  # that sum, and the numbers of a row that each takes at a time
_TURN = WARPS * DEPTH


@triton.jit
def _weights(weight, first, part, is_output, width):
    return tl.load(weight + first, is_output & (first + part < width), 0.0)


# Or each number of rows would be compiled for.
@triton.jit(do_not_specialize=["rows"])
def _project(
    x, weight, bias, out, rows, width, outputs,
    HAS_BIAS: tl.constexpr, IS_GATED: tl.constexpr, IS_SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WARPS: tl.constexpr, DEPTH: tl.constexpr,
    TURN: tl.constexpr, TURNS: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    next_may_start(EARLY)
    m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    begin = tl.program_id(2) * (TURNS * TURN)
    part = tl.arange(0, WARPS)[:, None, None] * DEPTH + tl.arange(0, DEPTH)[None, None]
    is_row, is_output = (m < rows)[None, :, None], (n < outputs)[None, :, None]
    from_row = x + m[None, :, None] * width + part
    gate = weight + n[None, :, None] * width + part
    up = gate + outputs.to(tl.int64) * width
    sums = tl.zeros((WARPS, BLOCK_M, BLOCK_N), tl.float32)
    ups = tl.zeros((WARPS, BLOCK_M, BLOCK_N), tl.float32)
    if STAGES > 0:
        if tl.program_id(0) == 0:
            near = tl.minimum(n, outputs - 1)
            bring_near(weight, near, begin, begin + TURNS * TURN, width, TURN, EARLY)
            if IS_GATED:
                bring_near(weight, near + outputs, begin, begin + TURNS * TURN, width, TURN, EARLY)
        ready(EARLY)
        for i in tl.range(TURNS, num_stages=STAGES):
            first = begin + i * TURN
            a = tl.load(from_row + first, is_row & (first + part < width), 0.0)
            w = _weights(gate, first, part, is_output, width)
            sums = tl.dot(a, tl.permute(w, (0, 2, 1)), sums)
            if IS_GATED:
                u = _weights(up, first, part, is_output, width)
                ups = tl.dot(a, tl.permute(u, (0, 2, 1)), ups)
    else:  # one turn or two
        behind = begin + TURN
        w = _weights(gate, begin, part, is_output, width)
        if IS_GATED:
            u = _weights(up, begin, part, is_output, width)
        if TURNS == 2:
            next_w = _weights(gate, behind, part, is_output, width)
            if IS_GATED:
                next_u = _weights(up, behind, part, is_output, width)
        ready(EARLY)
        a = tl.load(from_row + begin, is_row & (begin + part < width), 0.0)
        if TURNS == 2:
            next_a = tl.load(from_row + behind, is_row & (behind + part < width), 0.0)
        sums = tl.dot(a, tl.permute(w, (0, 2, 1)), sums)
        if IS_GATED:
            ups = tl.dot(a, tl.permute(u, (0, 2, 1)), ups)
        if TURNS == 2:
            sums = tl.dot(next_a, tl.permute(next_w, (0, 2, 1)), sums)
            if IS_GATED:
                ups = tl.dot(next_a, tl.permute(next_u, (0, 2, 1)), ups)
    y = tl.sum(sums, 0)
    if HAS_BIAS:  # of the first part
        is_its = (n < outputs) & (tl.program_id(2) == 0)
        y += tl.load(bias + n, is_its, 0.0)[None].to(tl.float32)
    inside = (m < rows)[:, None] & (n < outputs)[None]
    if IS_SPLIT:
        row = tl.program_id(2).to(tl.int64) * rows + m
        tl.store(out + row[:, None] * outputs + n[None], y, inside)
    else:
        z = y.to(x.dtype.element_ty)
        if IS_GATED:
            g = z.to(tl.float32)
            z = (g / (1 + tl.exp(-g))).to(z.dtype) * tl.sum(ups, 0).to(z.dtype)
        tl.store(out + m[:, None] * outputs + n[None], z, inside)


def project(x: Tensor, weight: Tensor, bias: Tensor | None = None, gated: bool = False) -> Tensor:
    """A matrix product.

    Args:
        x: (rows, width), of half precision like all the rest.
        weight: (outputs, width); gates, and then what they let through, if it is `gated`.
        bias: (outputs,).
        gated: Whether the result is silu(gate) * up, (rows, outputs / 2).
    """
    outputs = weight.shape[0] // (1 + gated)
    out = x.new_empty(len(x), outputs)
    _launch(x, weight, bias, out, triton.cdiv(x.shape[1], _TURN), gated)
    return out


def project_in_parts(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A matrix product whose depth is cut into parts, which `engine.kernels.gpu.add_norm` adds.

    Args:
        x, weight, bias: As `project` takes them.

    Returns:
        float32 (parts, rows, outputs).
    """
    turns = 2 if x.shape[1] <= 4096 else 4  # few, so that there are many blocks
    parts = triton.cdiv(x.shape[1], turns * _TURN)
    out = x.new_empty(parts, len(x), len(weight), dtype=torch.float32)
    _launch(x, weight, bias, out, turns, gated=False)
    return out


class Tile(NamedTuple):
    """What a block computes, and how its operands come.

    Attributes:
        rows, outputs: Of the product; `tl.dot` takes no fewer than 16 of each.
        stages: Turns whose operands are on their way to shared memory at once; 0: operands come to
            registers, those of two turns at once, which is faster where there are no more turns.
    """

    rows: int
    outputs: int
    stages: int


def tile_of(rows: int, outputs: int, turns: int, gated: bool) -> Tile:
    """The fastest on an H100, for Fish-Speech S1-mini's and S2-Pro's shapes."""
    if rows <= 16:
        return Tile(16, 16 if gated else 32, 0) if turns <= 2 else Tile(16, 16, 3)
    if outputs <= 2048 and turns <= 2 and not gated:
        return Tile(16, 32, 0)
    return Tile(32, 16 if gated or turns <= 2 else 32, 2)


def _launch(
    x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor, turns: int, gated: bool
) -> None:
    rows, width = x.shape
    outputs, is_split = out.shape[-1], out.dim() == 3
    tile = tile_of(rows, outputs, turns, gated)
    grid = triton.cdiv(rows, tile.rows), triton.cdiv(outputs, tile.outputs)
    _project[(*grid, len(out) if is_split else 1)](
        *(x, weight, x if bias is None else bias, out, rows, width, outputs),
        HAS_BIAS=bias is not None, IS_GATED=gated, IS_SPLIT=is_split,
        BLOCK_M=tile.rows, BLOCK_N=tile.outputs, WARPS=WARPS, DEPTH=DEPTH, TURN=_TURN,
        TURNS=turns, STAGES=tile.stages,
        num_warps=WARPS, **options(x),
    )  # fmt: skip
