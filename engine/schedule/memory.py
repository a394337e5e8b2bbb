"""What the keys and values of requests take, and for how many positions there is memory."""

from pathlib import Path

import torch

from ensemble.contract.facts import Facts

MAX_SLOTS = {"cpu": 16, "cuda": 64}  # beyond, more company is no longer more frames per second
SHARE = 0.5  # of what is free; the rest is for the codec's batches and for copies as caches grow


def out_of_memory(error: Exception) -> bool:
    """Whether torch, on any device, says that it got no memory."""
    words = ("DefaultCPUAllocator: can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)


def kv_bytes_per_position(facts: Facts, dtype: torch.dtype) -> int:
    """Keys and values of one position of one request."""
    return 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * dtype.itemsize


def positions_that_fit(facts: Facts, dtype: torch.dtype, device: torch.device) -> int:
    """Positions, of all requests together, whose keys and values a share of free memory holds."""
    return int(SHARE * free_bytes(device)) // kv_bytes_per_position(facts, dtype)


def free_bytes(device: torch.device) -> int:
    """Of the GPU, or of what this process may still take of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    machine = _numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    group = Path("/sys/fs/cgroup")  # a container's limit, if there is one
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        used -= _numbers(group / "memory.stat")["inactive_file"]  # given back when asked for
    except (OSError, ValueError, KeyError):
        return machine
    return max(0, min(machine, limit - used))


def _numbers(path: Path) -> dict[str, int]:
    """`name number ...` lines."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
