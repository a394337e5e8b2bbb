"""The machine that a benchmark ran on: its description, its rates, the commit."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def describe() -> str:
    """One line: CPU model, matrix instructions, threads, version of torch."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = file.read().splitlines()
        names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
        model = names[0] if names else model
    except OSError:
        pass
    have = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "AVX512_BF16": torch.cpu._is_avx512_bf16_supported(),
    }
    features = ", ".join(name for name, there in have.items() if there) or "neither AMX nor BF16"
    return f"{model} ({features}), {torch.get_num_threads()} threads, torch {torch.__version__}"


def commit() -> str:
    """Short hash of the checked-out commit, with a + if the working tree differs from it."""
    command = ["git", "describe", "--always", "--dirty=+"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def median_seconds(call: Callable[[], object], repeats: int, warmup: int = 2) -> float:
    """Median wall time of a call, after calls that warm up."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def read_bytes_per_s(device: torch.device | str = "cpu") -> float:
    """Memory read rate of a CPU or a GPU: a sum over 512 MiB, median of five."""
    block = torch.ones(2**27, device=device)
    return block.numel() * 4 / median_seconds(lambda: block.sum().item(), 5)


def matmul_flops_per_s(
    dtype: torch.dtype, size: int = 2048, device: torch.device | str = "cpu"
) -> float:
    """Rate of a square matrix product, median of five.

    The numbers are random, since a GPU multiplies ones faster; taking one out waits for a GPU.
    """
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: (a @ b)[0, 0].item(), 5)


def int8_ops_per_s(channels: int = 384, time: int = 4096) -> float:
    """Rate of an 8-bit integer convolution of the decoder's shape by oneDNN, median of five."""
    ops: Any = torch.ops.onednn
    geometry = [1, 1], [0, 0], [1, 1], 1  # stride, padding, dilation, groups
    weight = torch.ones(channels, channels, 1, 7, dtype=torch.int8)
    scale, zeros = torch.ones(channels), torch.zeros(channels, dtype=torch.int64)
    x = torch.ones(1, channels, 1, time + 6, dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    packed = ops.qconv_prepack(weight, scale, 1.0, 128, *geometry, list(x.shape))
    given = 1.0, 0, torch.float32, "none", [], ""

    def convolve() -> Any:
        return ops.qconv_pointwise(x, 1.0, 128, packed, scale, zeros, None, *geometry, *given)

    return 2 * 7 * channels**2 * time / median_seconds(convolve, 5)
