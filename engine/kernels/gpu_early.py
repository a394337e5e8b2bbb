"""Kernels that a GPU starts before those ahead of them have ended, in OpenAI's Triton.

A decode step is a chain of hundreds of kernels, each of which takes a few microseconds, and from
the end of one to the begin of the next it is as long again. From Hopper on a kernel may be started
when all blocks of the one ahead have begun. It brings its weights near, and waits in `ready` until
what is ahead has ended. A kernel that waits cannot end before those ahead: so what it waits for is
the whole chain. Nothing that the chain writes may be read before.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # an older Triton
    gdc_launch_dependents: Any = None
    gdc_wait: Any = None

HOPPER = (9, 0)  # the first capability that can do it


@triton.jit
def next_may_start(EARLY: tl.constexpr):
    """Allow the next kernel to be started, once all blocks of this one have come here."""
    if EARLY:
        gdc_launch_dependents()


@triton.jit
def ready(EARLY: tl.constexpr):
    """Wait until the kernels ahead have ended and what they have written can be read."""
    if EARLY:
        gdc_wait()


@triton.jit
def bring_near(weight, rows, begin, end, width, WIDE: tl.constexpr, EARLY: tl.constexpr):
    """Bring parts of rows of a matrix of half precision into the cache that all blocks share.

    Args:
        weight: The matrix, (..., width).
        rows: Of it, all within.
        begin, end: Of the parts; the end may be beyond that of a row.
        width: Of a row.
        WIDE: Numbers of a row that are asked for together.
        EARLY: Whether the kernel is started early; else there is nothing to gain.
    """
    if EARLY:
        lines = tl.arange(0, WIDE // 64) * 64  # a line of the cache holds 64 numbers
        for first in range(begin, end, WIDE):
            at = tl.minimum(first + lines, width - 1)
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l",
                [(weight + rows[:, None] * width + at[None]).to(tl.int64)],
                dtype=tl.int32, is_pure=False, pack=1,
            )  # fmt: skip


@functools.cache
def can(device: torch.device) -> bool:
    """Whether kernels can be started early there."""
    if gdc_wait is None or device.type != "cuda" or torch.version.hip:
        return False
    return torch.cuda.get_device_capability(device) >= HOPPER


def options(x: Tensor) -> dict[str, Any]:
    """Options of the launch of a kernel that has a parameter EARLY, beside what lies on `x`."""
    return {"EARLY": True, "launch_pdl": True} if can(x.device) else {"EARLY": False}
