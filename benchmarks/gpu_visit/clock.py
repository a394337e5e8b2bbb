"""Timing of what a GPU does: a call returns before the GPU has done its work."""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import machine


def wait(device: str) -> None:
    """Until all work that was given to the device is done; a CPU has done it already."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call: Callable[[], Any], device: str, repeats: int, warmup: int = 2) -> float:
    """Median wall time of a call on a device, the device's work included."""

    def timed() -> None:
        call()
        wait(device)

    return machine.median_seconds(timed, repeats, warmup)
