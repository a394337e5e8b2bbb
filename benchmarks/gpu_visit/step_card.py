"""What the machine is, and the rates that times are held against."""

import importlib.metadata
import platform
from typing import Any

import torch

from benchmarks import machine
from benchmarks.gpu_visit import smi
from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Visit
from benchmarks.speed.bounds import DTYPES, Rates

_PACKAGES = ("torch", "triton", "numpy", "nvidia-pytriton", "tritonclient", "onnxruntime-gpu")


def run(visit: Visit, results: Results) -> None:
    """Describe card, driver and versions, and measure memory and matrix products."""
    results.put("card", _card(visit.device))
    results.put("driver", smi.query("driver_version") if visit.device == "cuda" else None)
    results.put("versions", _versions())
    commit = machine.commit()
    results.put("commit", visit.commit if commit == "unknown" else commit)
    results.put("rates", rates(visit).described())


def rates(visit: Visit) -> Rates:
    """Best of a few, of this device now: what a time is compared with is measured beside it."""
    size = 128 if visit.tiny else 8192
    multiply = {
        name: machine.matmul_flops_per_s(dtype, size, visit.device)
        for name, dtype in DTYPES.items()
    }
    return Rates(machine.read_bytes_per_s(visit.device), multiply)


def _card(device: str) -> dict[str, Any]:
    if device == "cpu":
        return {"name": machine.describe()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "name": properties.name,
        "memory_gb": properties.total_memory / 1e9,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
    }


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found | {"cuda": torch.version.cuda}
