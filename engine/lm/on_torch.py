"""The language model by torch's own operators: on any device, and where kernels cannot be had."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.kernels.rounding import BYTES
from engine.lm.graphs import DualArGraphs
from engine.lm.layers import layers_of
from engine.lm.linear import is_batch_invariant, linear_for
from engine.lm.placement import Placement
from engine.lm.runner import PENALTY_FRAMES, Draw, NewPositions
from engine.lm.sampler import exponential_noise
from engine.lm.shape import DualArShape
from engine.lm.vocabulary import Vocabulary
from engine.lm.weights import Weights, bytes_per_step
from ensemble.contract.facts import Facts

_CACHE_LINE = 64  # bytes; rows of the cache begin at one, so that vector loads cross none


class TorchRunner:
    """`DualArGraphs`, traced on a CPU. See `engine.lm.runner.Runner`.

    Attributes:
        placement: Where and how it was asked to run.
        batch_invariant: Whether a row's products have the same bits in every batch.
        weight_bytes_per_step: Bytes of weights that one step reads.
        why_no_kernels: Why it runs without kernels, "" if it has them.
    """

    fixed_positions = 0
    reads_shared = False

    def __init__(
        self,
        facts: Facts,
        shape: DualArShape,
        tensors: dict[str, Tensor],
        placement: Placement,
        why_no_kernels: str = "",
    ) -> None:
        self.facts, self.vocabulary = facts, Vocabulary(facts)
        self.placement, self.device = placement, placement.device
        self.why_no_kernels = why_no_kernels
        graphs = self.graphs_of(shape, tensors, placement)
        self.slow_choices, self._fast_choices = graphs.slow.choices, graphs.fast.choices
        self.state_dim = graphs.fast.embeddings.weight.shape[1]
        self.dtype = graphs.slow.norm.weight.dtype
        self.state_dtype = self._state_dtype()
        self.batch_invariant = self._is_batch_invariant(graphs)
        self.weight_bytes_per_step = bytes_per_step(
            tensors, facts.num_codebooks, self.dtype.itemsize, self._bytes_of_layers()
        )
        self._extend, self.sample_token, self.fast_loop = self._ready(graphs)

    @staticmethod
    def graphs_of(
        shape: DualArShape, tensors: dict[str, Tensor], placement: Placement
    ) -> DualArGraphs:
        """Build the graphs, their weights where and how the placement says."""
        device, dtype = placement.device, placement.dtype
        is_half = placement.is_cpu and dtype == torch.bfloat16
        if is_half and not torch.cpu._is_avx512_bf16_supported():
            dtype = torch.float32  # torch emulates bfloat16 then, several times slower
        weights = Weights(tensors, lambda t: t.to(device, dtype))
        layer, exact = layers_of(linear_for(device, bool(placement.rounding))), linear_for(device)
        return DualArGraphs(shape, weights, layer, exact).eval().requires_grad_(False)

    def _bytes_of_layers(self) -> float:
        return BYTES["int8"] if self.placement.rounding else self.dtype.itemsize

    def _state_dtype(self) -> torch.dtype:
        return self.dtype

    def _is_batch_invariant(self, graphs: DualArGraphs) -> bool:
        layer: Any = graphs.slow.layers[0]
        embeddings = graphs.slow.embeddings.weight
        return all(
            is_batch_invariant(linear, embeddings.shape[1], embeddings)
            for linear in (layer.attention.wqkv, layer.gate_up, graphs.slow.head)
        )

    def _ready(self, graphs: DualArGraphs) -> tuple[Any, Any, Any]:
        """Make `extend`, `sample_token` and `fast_loop` of the graphs' methods."""
        # A trace on a GPU would be compiled anew for each shape.
        if self.device.type != "cpu":
            return graphs.extend, graphs.sample_token, graphs.fast_loop
        run = self._traced(graphs)
        return run.extend, _with_top_k(run.sample_token, 7), _with_top_k(run.fast_loop, 8)

    def extend(self, inputs: NewPositions) -> tuple[Tensor, Tensor]:
        """See `Runner.extend`."""
        if inputs.shared is None:
            inputs = inputs._replace(shared=torch.zeros_like(inputs.lengths).expand(2, -1))
        return self._extend(*inputs)

    def noise(self, draws: Sequence[Draw], rows: int) -> tuple[Tensor, Tensor]:
        """See `Runner.noise`: numbers from Exp(1) for every choice."""
        books = self.facts.num_codebooks
        count = self.slow_choices + (books - 1) * self._fast_choices
        noise = torch.from_numpy(np.stack([exponential_noise(draw, count) for draw in draws]))
        slow, fast = noise.to(self.device).tensor_split([self.slow_choices], dim=1)
        return slow, fast.unflatten(1, (books - 1, -1))

    def second_noise(self, draws: Sequence[Draw], rows: int) -> Tensor:
        """See `Runner.second_noise`: numbers from Exp(1) for every choice."""
        noise = [exponential_noise(draw, self.slow_choices, again=True) for draw in draws]
        return torch.from_numpy(np.stack(noise)).to(self.device)

    def to_device(self, *tensors: Tensor) -> list[Tensor]:
        """See `Runner.to_device`."""
        return [tensor.to(self.device) for tensor in tensors]

    def new_cache(self, rows: int, positions: int) -> Tensor:
        """See `Runner.new_cache`."""
        facts = self.facts
        extents = (facts.num_layers, rows, facts.num_kv_heads, positions, facts.head_dim)
        if self.device.type != "cpu":
            return torch.zeros(extents, dtype=self.dtype, device=self.device)
        # NumPy's zeros take no memory before they are written, and then large pages.
        size = math.prod(extents) * self.dtype.itemsize
        memory = np.zeros(size + _CACHE_LINE, np.uint8)
        begin = -memory.ctypes.data % _CACHE_LINE
        return torch.from_numpy(memory[begin : begin + size]).view(self.dtype).view(extents)

    def rows_for(self, count: int, slots: int) -> int:
        """See `Runner.rows_for`: exactly as many."""
        return count

    def positions_for(self, time: int) -> int:
        """See `Runner.positions_for`: exactly as many."""
        return time

    def warm_up_prompts(self) -> tuple[int, ...]:
        """See `Runner.warm_up_prompts`: any prompt will do."""
        return (8,)

    def warm_up_counts(self, most: int) -> set[int]:
        """See `Runner.warm_up_counts`: a trace is optimised in its first runs."""
        return {1, most}

    @torch.no_grad()
    def _traced(self, graphs: DualArGraphs) -> Any:
        """Trace with two rows of different lengths and a past; no size of these is in the trace."""
        books = self.facts.num_codebooks
        keys, values = self.new_cache(2, 9), self.new_cache(2, 9)
        lengths, ones = torch.tensor([3, 2]), torch.ones(2)
        tokens = torch.zeros(2, 1 + books, 3, dtype=torch.int64)
        logits = torch.zeros(2, self.slow_choices)
        previous = torch.full((2, books - 1, PENALTY_FRAMES), -1)
        state = torch.zeros(2, self.state_dim, dtype=self.state_dtype)
        noise = torch.ones(2, books - 1, self._fast_choices)
        shared = torch.zeros_like(tokens[:, 0, :2])
        top_k = torch.zeros_like(lengths)
        inputs = {
            "extend": tuple(NewPositions(tokens, lengths, lengths, keys, values, shared)),
            "sample_token": (
                *(logits, previous[:, 0], ones, ones, ones, torch.ones_like(logits), top_k),
            ),
            "fast_loop": (state, lengths, previous, ones, ones, ones, noise, top_k),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, and that it is deprecated
            return torch.jit.trace_module(graphs, inputs, check_trace=False)


def _with_top_k(traced: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A traced function of so many inputs, whose last one, `top_k`, may be left out."""

    def run(*inputs: Tensor) -> Any:
        if len(inputs) < count:
            inputs = (*inputs, torch.zeros(len(inputs[0]), dtype=torch.int64))
        return traced(*inputs)

    return run
