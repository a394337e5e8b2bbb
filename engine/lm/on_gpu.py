"""The graphs on a GPU: a step by few kernels, all of whose launches are recorded and replayed.

One frame is some 700 launches, and to give one takes Python longer than a GPU to carry it out.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec import package as compiled
from engine.kernels.norm import RMSNorm
from engine.lm.graphs import FastGraph, LlamaGraphs, SlowGraph
from engine.lm.layers import Past, layers_of
from engine.lm.linear import Linear
from engine.lm.weights import LlamaShape, Weights

MAX_CHOICES = 16384  # that the sampler's kernel takes
_FEW = 4  # new positions of a row: more are a prompt's
_KEPT = 64  # recordings


@functools.cache
def fault() -> str | None:
    """Why there are no kernels here, or None."""
    if not compiled.wanted():
        return "FISH_SPEECH_COMPILE is false"
    try:
        from engine.kernels import gpu as gpu_kernels

        one = torch.ones(1, 16, device="cuda")
        gpu_kernels.add_norm(one, one, one[0], 1e-6)
    except Exception as error:  # whatever a compiler, a driver or an old GPU says
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None


class KernelNorm(RMSNorm):
    """Of (rows, dim)."""

    def forward(self, x: Tensor) -> Tensor:
        from engine.kernels.gpu import add_norm

        return add_norm(x.contiguous(), None, self.weight, self.eps)[1]


def through(
    layers: nn.ModuleList,
    x: Tensor,
    past: Tensor,
    cos_sin: Tensor,
    keys: Any,
    values: Any,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Through the layers, whose keys and values are written behind those cached.

    Args:
        layers: `engine.lm.layers.Layer`s.
        x: (rows * time, dim).
        past: int64 (rows,), positions cached.
        cos_sin: float32 (positions, head_dim / 2, 2).
        keys, values: Of each layer, (rows, kv heads, positions, head_dim).
        mask: As `Attention` takes it, for many new positions; without it there are few.

    Returns:
        Two parts whose sum is the output.
    """
    from engine.kernels.gpu import add_norm, attend, gated, place

    added = None
    for i, layer in enumerate(layers):
        module: Any = layer
        attention = module.attention
        norm = module.attention_norm
        x, y = add_norm(x, added, norm.weight, norm.eps)
        norms = None
        if attention.q_norm is not None:
            norms = attention.q_norm.weight, attention.k_norm.weight
        q = place(attention.wqkv(y), norms, attention.eps, cos_sin, past, keys[i], values[i])
        if mask is None:
            y = attend(q, keys[i], values[i], past)
        else:
            y = _attend_many(q, keys[i], values[i], mask)
        norm = module.ffn_norm
        x, y = add_norm(x, attention.wo(y), norm.weight, norm.eps)
        added = module.down(gated(module.gate_up(y)))
    assert added is not None
    return x, added


def _attend_many(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """As `Attention.forward`."""
    rows, kv_heads = keys.shape[:2]
    q = q.view(rows, -1, kv_heads, q.shape[1] // kv_heads, q.shape[2]).permute(0, 2, 3, 1, 4)
    groups, time = q.shape[2:4]
    y = F.scaled_dot_product_attention(q.flatten(2, 3), keys, values, mask)
    return y.unflatten(2, (groups, time)).permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)


class GpuSlow(SlowGraph):
    """`extend`, the only method that serving takes, by kernels."""

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, mask, time = self.embed(tokens), None, tokens.shape[2]
        if time > _FEW:
            positions = past_lengths[:, None] + self.count[:time]
            mask = self.mask(self.count[: keys.shape[3]] <= positions[:, :, None], x)
        cache = past_lengths, self.cos_sin, keys, values
        x, added = through(self.layers, x.flatten(0, 1), *cache, mask)
        return self.ends((x + added).view(len(tokens), time, -1), lengths)

    def ends(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] > 1:
            return super().ends(x, lengths)
        return self.head(self.norm(x[:, 0])), self.to_fast(x[:, 0])


class GpuFast(FastGraph):
    """The fast transformer by kernels."""

    def choose(self, *inputs: Tensor) -> Tensor:
        from engine.kernels.gpu import sample

        return sample(*inputs)

    def advance(self, x: Tensor, begin: int, past: list[Past]) -> tuple[Tensor, list[Past]]:
        rows, time, _ = x.shape
        if not past:
            extents = rows, self.block.kv_heads, self.codebooks, self.block.head_dim
            past = [(x.new_empty(extents), x.new_empty(extents)) for _ in self.layers]
        lengths = torch.full((rows,), begin, device=x.device)
        keys, values = zip(*past, strict=True)
        x, added = through(self.layers, x.flatten(0, 1), lengths, self.cos_sin, keys, values)
        return (x + added).view(rows, time, -1)[:, -1], past


class GpuGraphs(LlamaGraphs):
    """`extend`, `sample_token` and `fast_loop` by kernels, few rows' recorded."""

    slow_type, fast_type = GpuSlow, GpuFast

    def __init__(self, shape: LlamaShape, weights: Weights) -> None:
        super().__init__(shape, weights, layers_of(Linear), Linear)
        for graph in (self.slow, self.fast):
            graph.norm = KernelNorm(graph.norm.weight, graph.norm.eps)


class Recorded:
    """Of `GpuGraphs`, what a step does again and again."""

    def __init__(self, graphs: GpuGraphs) -> None:
        pool = torch.cuda.graph_pool_handle()
        self._graphs = graphs
        self._decode = Replays(graphs.slow.extend, pool, in_place=(3, 4))
        self.sample_token = Replays(graphs.sample_token, pool)
        self.fast_loop = Replays(graphs.fast_loop, pool)

    def extend(
        self, tokens: Tensor, lengths: Tensor, past: Tensor, keys: Tensor, values: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor]:
        """A frame from the recording, a prompt at once."""
        run = self._decode if tokens.shape[2] == 1 else self._graphs.slow.extend
        return run(tokens, lengths, past, keys, values)


class Replays:
    """A function of tensors, recorded once for each shape of them.

    What it returns is overwritten by the next replay that shares its pool.
    """

    def __init__(
        self, function: Callable[..., Any], pool: Any, in_place: tuple[int, ...] = ()
    ) -> None:
        """Args:
        function: Whose launches depend on nothing but shapes, and which may be run twice.
        pool: Of memory.
        in_place: Inputs that are read and written where they lie.
        """
        self._function, self._pool, self._in_place = function, pool, in_place
        self._recorded: OrderedDict[tuple, tuple[Any, list[Tensor | None], Any]] = OrderedDict()

    def __call__(self, *inputs: Tensor) -> Any:
        key = tuple(
            (*x.shape, *x.stride(), x.data_ptr()) if i in self._in_place else tuple(x.shape)
            for i, x in enumerate(inputs)
        )
        if key not in self._recorded:
            self._recorded[key] = self._record(inputs)
            if len(self._recorded) > _KEPT:
                self._recorded.popitem(last=False)
        self._recorded.move_to_end(key)
        graph, held, outputs = self._recorded[key]
        for mine, given in zip(held, inputs, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()
        return outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> tuple[Any, list[Tensor | None], Any]:
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
