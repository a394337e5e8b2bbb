"""What every benchmark says of where it ran."""

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch


def describe() -> str:
    """CPU model, instructions that matter, cores, torch."""
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
    """Short hash of what is checked out, with a + if it was changed."""
    command = ["git", "describe", "--always", "--dirty=+"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def median_seconds(call: Callable[[], object], repeats: int, warmup: int = 2) -> float:
    """Median wall time of a call, after a warm-up."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def read_bytes_per_s(device: torch.device | str = "cpu") -> float:
    """Memory read rate of a CPU or a GPU: summing 512 MiB, the median of a few."""
    block = torch.ones(2**27, device=device)
    return block.numel() * 4 / median_seconds(lambda: block.sum().item(), 5)


def matmul_flops_per_s(
    dtype: torch.dtype, size: int = 2048, device: torch.device | str = "cpu"
) -> float:
    """Of a square matrix product, the median of a few. Random: a GPU multiplies ones faster."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    # Taking a number out waits for a GPU.
    return 2 * size**3 / median_seconds(lambda: (a @ b)[0, 0].item(), 5)


def int8_ops_per_s(channels: int = 384, time: int = 4096) -> float:
    """Of a convolution in 8-bit integers as the decoder has them, the median of a few."""
    from torch import nn

    from export.codec_int8 import Int8Conv

    conv = nn.Conv2d(channels, channels, (1, 7)).requires_grad_(False)
    int8 = Int8Conv(conv, -torch.ones(channels), torch.ones(channels))
    x = torch.ones(1, channels, 1, time + 6, dtype=torch.uint8)
    x, packed = x.contiguous(memory_format=torch.channels_last), int8.packed()
    return 2 * 7 * channels**2 * time / median_seconds(lambda: int8.convolved(x, packed), 5)
