"""A stand-in for CUDA's graphs that works on a CPU.

As CUDA's, it keeps the operations of one run and their memory, and a replay runs these operations
again, on what lies in that memory now, without Python's part of the function. What the recording
itself computed is spoilt, since CUDA computes nothing while it records.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Graph(TorchDispatchMode):
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.calls.append((function, args, kwargs or {}, out))
        return out

    def spoil(self) -> None:
        for _, args, kwargs, out in self.calls:
            given = {memory(t) for t in tensors((args, kwargs))}
            for tensor in tensors(out):
                if memory(tensor) not in given:
                    tensor.fill_(float("nan") if tensor.is_floating_point() else -1)

    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, kept in self.calls:
            for old, new in zip(tensors(kept), tensors(function(*args, **kwargs)), strict=True):
                if memory(old) != memory(new):
                    old.copy_(new)


@contextmanager
def recording(graph: Graph, pool: str, capture_error_mode: str) -> Iterator[None]:
    assert (pool, capture_error_mode) == ("a pool", "thread_local")
    with graph:
        yield
    graph.spoil()


def stand_in_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Replay` record without a GPU."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    for name, value in {
        "graph_pool_handle": lambda: "a pool",
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": nullcontext,
        "CUDAGraph": Graph,
        "graph": recording,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
