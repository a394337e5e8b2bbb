"""Functions of tensors whose kernel launches are captured as CUDA graphs and replayed.

A frame takes about 700 kernel launches, and launching from Python is slower than running them.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Captures. A server makes one for each power of two of rows, and all anew when its cache moves.
_KEPT = 64


class Replay:
    """A function, captured once for each combination of its inputs' shapes.

    What it returns is overwritten by the next replay that shares its pool.
    """

    def __init__(
        self, function: Callable[..., Any], pool: Any, in_place: tuple[int, ...] = ()
    ) -> None:
        """Args:
        function: Its launches depend on nothing but shapes, and it may be run twice.
        pool: Of memory.
        in_place: Inputs that are read and written where they lie.
        """
        self._function, self._pool, self._in_place = function, pool, in_place
        self._captured: OrderedDict[tuple, tuple[Any, list[Tensor | None], Any]] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Any:
        key = tuple(
            (*x.shape, *x.stride(), x.data_ptr()) if i in self._in_place else tuple(x.shape)
            for i, x in enumerate(inputs)
        )
        if key not in self._captured:
            self._captured[key] = self._capture(inputs)
            if len(self._captured) > _KEPT:
                self._captured.popitem(last=False)
        self._captured.move_to_end(key)
        graph, held, outputs = self._captured[key]
        for mine, given in zip(held, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()
        return outputs

    def _capture(self, inputs: tuple[Tensor, ...]) -> tuple[Any, list[Tensor | None], Any]:
        held = [
            None if i in self._in_place else x.clone(memory_format=torch.contiguous_format)
            for i, x in enumerate(inputs)
        ]
        taken = [given if mine is None else mine for mine, given in zip(held, inputs, strict=True)]
        aside, now = torch.cuda.Stream(), torch.cuda.current_stream()
        aside.wait_stream(now)
        with torch.cuda.stream(aside):
            self._function(*taken)  # kernels are compiled and chosen at their first run
        now.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = self._function(*taken)
        return graph, held, outputs
