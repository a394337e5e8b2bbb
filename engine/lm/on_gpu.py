"""The language model on a GPU: a step by few kernels, whose launches are captured and replayed."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.kernels.cuda_replay import Replay
from engine.lm.gpu_graphs import GpuGraphs
from engine.lm.graphs import DualArGraphs
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import Placement
from engine.lm.runner import Draw, NewPositions
from engine.lm.shape import DualArShape
from engine.lm.weights import Weights

# Shared memory that a block of threads takes at most; a GPU from RTX 30 on has as much. It keeps
# some more for each block.
SHARED_BYTES, _RESERVED_BYTES = 99 << 10, 1 << 10
MAX_CHOICES = 16384  # logits that the sampler's kernel takes: it holds a row in registers
# Positions of prompts' slices that are recorded: a slice is filled up to the next of them. The last
# is the longest slice (`engine.schedule.step.PREFILL_SLICE`).
SLICES = (16, 32, 64, 128, 256, 512)
_ONE_BY_ONE = 8  # prompts that are replayed; together they would be launched kernel by kernel


@functools.cache
def fault() -> str:
    """Why there are no GPU kernels here, or ""."""
    try:
        from engine.kernels import gpu as gpu_kernels

        if lack := lack_of(torch.cuda.get_device_properties(0)):
            return lack
        one = torch.ones(1, 16, device="cuda")
        gpu_kernels.add_norm(one, one, one[0], 1e-6)
    except Exception as error:  # whatever a compiler, a driver or an old GPU says
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return ""


def lack_of(properties: Any) -> str:
    """What a GPU has too little of for the kernels, or "".

    Args:
        properties: As `torch.cuda.get_device_properties` gives them.
    """
    needed = SHARED_BYTES + _RESERVED_BYTES
    shared = getattr(properties, "shared_memory_per_multiprocessor", needed)
    if shared >= needed:
        return ""
    return (
        f"each multiprocessor of {properties.name} has {shared} bytes of shared memory, "
        f"expected {needed}"
    )


class GpuRunner(TorchRunner):
    """`GpuGraphs`, a step's launches replayed. Kernels draw their own random numbers."""

    fixed_positions = 2048  # prompt and about 60 s of speech; beyond, a step is captured anew

    @staticmethod
    def graphs_of(
        shape: DualArShape, tensors: dict[str, Tensor], placement: Placement
    ) -> DualArGraphs:
        weights = Weights(tensors, lambda t: t.to(placement.device, placement.dtype))
        return GpuGraphs(shape, weights).eval().requires_grad_(False)

    def _ready(self, graphs: DualArGraphs) -> tuple[Any, Any, Any]:
        pool = torch.cuda.graph_pool_handle()
        self._prefill = graphs.slow.extend
        positions = min(self.fixed_positions, self.facts.max_seq_len)
        self._aside = self.new_cache(1, positions), self.new_cache(1, positions)
        return (
            Replay(graphs.slow.extend, pool, in_place=(3, 4)),
            Replay(graphs.sample_token, pool),
            Replay(graphs.fast_loop, pool),
        )

    def extend(self, inputs: NewPositions) -> tuple[Tensor, Tensor]:
        """See `Runner.extend`: a decode step is replayed, and so is the prompt of one request.

        A recording holds the address of its rows, and every row's would be too many: so a prompt is
        run in a row of its own, and what it adds is copied. A few prompts are run like this one
        after the other. More are launched together, kernel by kernel, and so are those behind more
        positions than are recorded.
        """
        *given, _ = inputs
        rows, _, time = inputs.tokens.shape
        if time == 1:
            return self._extend(*given)
        if rows > _ONE_BY_ONE or time not in SLICES:
            return self._prefill(*given)
        if inputs.keys.shape[3] != self._aside[0].shape[3]:
            return self._prefill(*given)
        pasts = inputs.past_lengths.tolist()
        ends = [self._prompt_alone(inputs, row, past) for row, past in enumerate(pasts)]
        logits, states = zip(*ends, strict=True)
        return torch.cat(logits), torch.cat(states)

    def _prompt_alone(self, inputs: NewPositions, row: int, past: int) -> tuple[Tensor, Tensor]:
        """Replay the prompt of one row; what is returned is not overwritten."""
        time, its = inputs.tokens.shape[2], slice(row, row + 1)
        before, new = slice(past), slice(past, past + time)
        caches = inputs.keys[:, its], inputs.values[:, its]
        for aside, cache in zip(self._aside, caches, strict=True):
            aside[:, :, :, before] = cache[:, :, :, before]
        ends = self._extend(*(given[its] for given in inputs[:3]), *self._aside)
        for aside, cache in zip(self._aside, caches, strict=True):
            cache[:, :, :, new] = aside[:, :, :, new]
        return ends[0].clone(), ends[1].clone()

    def positions_for(self, time: int) -> int:
        """See `Runner.positions_for`: one of `SLICES`, so that few are recorded."""
        return next((slice_ for slice_ in SLICES if slice_ >= time > 1), time)

    def warm_up_prompts(self) -> tuple[int, ...]:
        """See `Runner.warm_up_prompts`: every length is recorded at its first run."""
        return SLICES

    def noise(self, draws: Sequence[Draw], rows: int) -> tuple[Tensor, Tensor]:
        """See `Runner.noise`: for every choice of a frame, int64 (seed, counter)."""
        books = self.facts.num_codebooks
        keys = np.zeros((rows, books, 2), np.int64)
        for row, draw in zip(keys, draws, strict=False):
            row[:, 0] = np.uint64(draw.seed).view(np.int64)
            row[:, 1] = draw.frame * books + np.arange(books)
        (drawn,) = self.to_device(torch.from_numpy(keys))
        return drawn[:, 0], drawn[:, 1:]

    def second_noise(self, draws: Sequence[Draw], rows: int) -> Tensor:
        """See `Runner.second_noise`: int64 (seed, counter), counters below all of `noise`."""
        keys = np.zeros((rows, 2), np.int64)
        for row, draw in zip(keys, draws, strict=False):
            row[:] = np.uint64(draw.seed).view(np.int64), -1 - draw.frame
        return self.to_device(torch.from_numpy(keys))[0]

    def to_device(self, *tensors: Tensor) -> list[Tensor]:
        """See `Runner.to_device`: all in one transfer, from memory that the GPU reads itself.

        From any other memory a transfer would wait until the GPU has done all it has to do.
        """
        # Each begins at a multiple of 16 bytes: kernels are compiled anew for other addresses.
        extents = [t.numel() + t.numel() % 2 for t in tensors]
        staged = torch.empty(sum(extents), dtype=torch.int64, pin_memory=self.device.type == "cuda")
        for part, tensor in zip(staged.split(extents), tensors, strict=True):
            part[: tensor.numel()].view(tensor.shape).copy_(tensor)
        parts = staged.to(self.device, non_blocking=True).split(extents)
        return [p[: t.numel()].view(t.shape) for p, t in zip(parts, tensors, strict=True)]

    def rows_for(self, count: int, slots: int) -> int:
        """See `Runner.rows_for`: a power of two, so that few steps are captured."""
        return min(slots, max(2, 1 << (count - 1).bit_length()))

    def warm_up_counts(self, most: int) -> set[int]:
        """See `Runner.warm_up_counts`: every number of rows is captured at its first step."""
        return {1, most} | {1 << i for i in range(most.bit_length())}
