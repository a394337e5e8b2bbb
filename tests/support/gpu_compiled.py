"""Compiles the kernels of a GPU for one that is not here, and prints what each of them takes.

    TRITON_INTERPRET=0 python -m support.gpu_compiled 90

The interpreter takes what the compiler refuses: a name that changes its shape, for instance. A
stand-in for the driver names the GPU, and launches compile only. The last line is JSON: of each
variant its name, bytes of shared memory, registers, and bytes of stack.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_USAGE = re.compile(r"REG:(\d+) STACK:(\d+)")


class Absent:
    """A driver of a GPU that is not here."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int | None = None) -> int:
        return 0


def collect(found: dict[str, dict[str, Any]]) -> None:
    """Let launches compile, and note what was made."""

    def launcher(kernel: Any, grid: Any) -> Any:
        def launch(*inputs: Any, **options: Any) -> None:
            made = kernel.run(*inputs, grid=grid, warmup=True, **options)
            if made.hash not in found:
                found[made.hash] = {"kernel": kernel.fn.__name__, **_used(made)}

        return launch

    JITFunction.__getitem__ = launcher  # pyright: ignore[reportAttributeAccessIssue]


def _used(made: Any) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True)
    usage = _USAGE.search(said.stdout + said.stderr)
    assert usage, said
    return {"shared": made.metadata.shared, "registers": int(usage[1]), "stack": int(usage[2])}


def products(
    dtype: torch.dtype, rows: int, dim: int, width: int, hidden: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's products and a norm; the norm's weight, and the first product."""
    from engine.kernels import gpu, gpu_product

    x, scale = torch.zeros(rows, dim, dtype=dtype), torch.zeros(dim, dtype=dtype)
    qkv = gpu_product.project(x, torch.zeros(width, dim, dtype=dtype))
    y = gpu_product.project(x, torch.zeros(2 * hidden, dim, dtype=dtype), gated=True)
    parts = gpu_product.project_in_parts(y, torch.zeros(dim, hidden, dtype=dtype), scale)
    gpu.add_norm(x, parts, scale, 1e-6)
    return scale, qkv


def steps(dtype: torch.dtype, rows: int, dim: int, width: int, hidden: int) -> None:
    """What a decode step launches."""
    from engine.kernels import gpu, gpu_attend_one, gpu_attention

    heads, kv_heads, head_dim = 16, 8, 128
    scale, qkv = products(dtype, rows, dim, width, hidden)
    tokens, table = torch.zeros(rows, 11, dtype=torch.int64), torch.zeros(20, dim, dtype=dtype)
    gpu.embed(tokens, table, gpu.Codes(table, 2, 0, 9, 3.3))
    gpu.embed(tokens[:, 0], table)
    norms, past = (scale[:head_dim],) * 2, torch.zeros(rows, dtype=torch.int64)
    for room, of_norms in ((2048, norms), (11, None)):
        cache = torch.zeros(rows, kv_heads, room, head_dim, dtype=dtype)
        place = of_norms, 1e-6, torch.zeros(room, head_dim // 2, 2), past, cache, cache
        given = qkv[:, : (heads + 2 * kv_heads) * head_dim]
        gpu_attend_one.attend_one(given, *place)
        gpu_attention.attend(gpu_attention.place(given, *place), cache, cache, past)
    gpu.gated(torch.zeros(rows, 2 * hidden, dtype=dtype))


def choices(dtype: torch.dtype, count: int, has_top_k: bool) -> None:
    """What a choice launches."""
    from engine.kernels import gpu

    one, draws = torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64)
    previous = torch.zeros(4, 16, dtype=torch.int64)
    top_k = draws[:, 0] if has_top_k else None
    gpu.sample(torch.zeros(4, count, dtype=dtype), previous, one, one, one, draws, top_k)


def windows(dtype: torch.dtype, split: bool) -> None:
    """What the codec's decoder launches."""
    from engine.kernels import gpu_codec
    from engine.kernels.rounded import conv_of

    operand = torch.float32 if split else dtype
    known, x = torch.zeros(2, dtype=torch.int64), torch.zeros(2, 70, 96, dtype=operand)
    conv = conv_of(torch.zeros(96, 96, 7), torch.zeros(96), dtype, split)
    gpu_codec.convolve(
        x, conv, operand, torch.zeros(2, 64, 96), (known, 40, 4), torch.zeros(96), keep=True
    )
    keys = torch.zeros(2, 16, 136, 64, dtype=operand)
    gpu_codec.attend(torch.zeros(2, 8, 16, 64), keys, keys, known)


def main(capability: int) -> None:
    from engine.kernels import gpu_early

    driver.set_active(Absent(capability))
    gpu_early.can = lambda device: capability >= 10 * gpu_early.HOPPER[0]
    found: dict[str, dict[str, Any]] = {}
    collect(found)
    for rows in (1, 33):
        steps(torch.float16, rows, 1024, 4096, 3072)
    products(torch.float16, 1, 2560, 6144, 9728)  # deeper, so that operands come by turns
    choices(torch.float16, 1024, has_top_k=False)
    choices(torch.float16, 4097, has_top_k=True)
    for split in (False, True):
        windows(torch.float16, split)
    print(json.dumps(list(found.values())))


if __name__ == "__main__":
    main(int(sys.argv[1]))
