"""How much memory there is, and how much of it keys and values take."""

from pathlib import Path

import torch

from ensemble.contract.facts import Facts

# Requests decoded together; with more, frames per second no longer rise.
MAX_SLOTS = {"cpu": 16, "cuda": 64}
# Part of the free memory that keys and values may take. The rest is for the codec's batches and
# for the copies that are made when caches grow.
SHARE = 0.5


def out_of_memory(error: Exception) -> bool:
    """Whether torch, on any device, says that it got no memory."""
    words = ("DefaultCPUAllocator: can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(w in str(error) for w in words)


def kv_bytes_per_position(facts: Facts, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one position of one request."""
    return 2 * facts.num_layers * facts.num_kv_heads * facts.head_dim * dtype.itemsize


def positions_that_fit(facts: Facts, dtype: torch.dtype, device: torch.device) -> int:
    """Positions, of all requests together, whose keys and values a share of free memory holds."""
    return int(SHARE * free_bytes(device)) // kv_bytes_per_position(facts, dtype)


def free_bytes(device: torch.device) -> int:
    """Free memory of the GPU, or what this process may still take of the machine's."""
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
    """Read lines of the form `name number ...`."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1}
