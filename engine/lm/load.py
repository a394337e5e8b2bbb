"""Loads a language model and picks what runs it: kernels where they can be had, else torch."""

from pathlib import Path

import torch
from torch import Tensor

from engine.kernels import build
from engine.lm import on_gpu
from engine.lm.graphs import DualArGraphs
from engine.lm.on_cpu import CpuRunner
from engine.lm.on_gpu import GpuRunner
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import Placement
from engine.lm.shape import DualArShape
from engine.lm.weights import GRAPHS_FILE, load
from ensemble.contract.facts import Facts


def load_runner(folder: Path, placement: Placement) -> TorchRunner:
    """Load what `make export` wrote into a model's version folder.

    Args:
        folder: With `llama.pt` and `checkpoint.json`.
        placement: Where and how it is to run.

    Raises:
        FileNotFoundError: If nothing has been exported into this folder.
        ValueError: If another version has exported it.
    """
    shape, tensors = load(folder / GRAPHS_FILE)
    if placement.device.index is not None:
        torch.cuda.set_device(placement.device)
    kind, why = _runner_type(tensors, placement)
    return kind(Facts.load(folder), shape, tensors, placement, why)


def graphs_for(
    shape: DualArShape, tensors: dict[str, Tensor], placement: Placement
) -> DualArGraphs:
    """Build the graphs that a runner would run, for comparisons."""
    kind, _ = _runner_type(tensors, placement)
    return kind.graphs_of(shape, tensors, placement)


def _runner_type(tensors: dict[str, Tensor], placement: Placement) -> tuple[type[TorchRunner], str]:
    """The runner for this machine, and why it has no kernels, "" if it has."""
    kind = CpuRunner if placement.is_cpu else GpuRunner
    why = _why_no_kernels(tensors, placement)
    return (TorchRunner if why else kind), why


def _why_no_kernels(tensors: dict[str, Tensor], placement: Placement) -> str:
    if not placement.use_kernels:
        return "FISH_SPEECH_COMPILE is false"
    if placement.is_cpu:
        if placement.dtype == torch.float16:
            return "they know no float16 on a CPU"
        return build.fault() or ""
    choices = tensors["slow.head.weight"].shape[0]
    if choices > on_gpu.MAX_CHOICES:
        return f"it samples from {choices} tokens, and they from {on_gpu.MAX_CHOICES} at most"
    return on_gpu.fault()
