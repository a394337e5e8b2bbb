"""Writes graphs as TorchScript, by tracing. Needs torch alone, not ONNX."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence deprecation and tracer warnings: parity at several shapes is checked instead."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.setLevel(level)


def torchscript(graph: nn.Module, inputs: dict[str, tuple[Tensor, ...]]) -> torch.jit.ScriptModule:
    """Trace the named methods into one module that shares its weights between them.

    A trace records whether TF32 is allowed, and with it convolutions on a GPU would not be exact.
    """
    cudnn = torch.backends.cudnn
    allowed, cudnn.allow_tf32 = cudnn.allow_tf32, False
    try:
        with quiet(), torch.no_grad():
            return torch.jit.trace_module(graph, inputs, check_trace=False)
    finally:
        cudnn.allow_tf32 = allowed
