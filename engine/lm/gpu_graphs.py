"""The language model's graphs by a GPU's kernels, to be launched or recorded and replayed."""

import functools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.norm import RMSNorm
from engine.lm.graphs import DualArGraphs, FastGraph, SlowGraph
from engine.lm.layers import Past, layers_of
from engine.lm.linear import Linear
from engine.lm.shape import DualArShape
from engine.lm.weights import Weights

FEW = 4  # new positions of a row: the kernel is for decode steps; more are a prompt's


class KernelNorm(RMSNorm):
    """The norm of (rows, dim) by a kernel."""

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
) -> tuple[Tensor, Tensor | None]:
    """Run new positions through layers, which write keys and values behind those cached.

    Args:
        layers: `engine.lm.layers.Layer`s.
        x: (rows * time, dim).
        past: int64 (rows,), positions cached.
        cos_sin: float32 (positions, head_dim / 2, 2).
        keys, values: Of each layer, (rows, kv heads, positions, head_dim).
        mask: What `Attention` takes, for many new positions; without it there are few.

    Returns:
        (rows * time, dim), and what is still to be added to it: see `engine.kernels.gpu.add_norm`.
    """
    is_few, added = mask is None and by_kernels(x), None
    for i, layer in enumerate(layers):
        module: Any = layer
        attention = module.attention
        norms = None
        if attention.q_norm is not None:
            norms = attention.q_norm.weight, attention.k_norm.weight
        place = _Place(norms, attention.eps, cos_sin, past, keys[i], values[i])
        if is_few:
            x, added = _few(module, x, added, place)
        else:
            x = _many(module, x, place, mask)
    return x, added


def by_kernels(x: Tensor) -> bool:
    """Whether products are our kernels: not in float32, where torch's are faster."""
    return x.dtype != torch.float32


class _Place(NamedTuple):
    """Where a layer's new positions go: see `engine.kernels.gpu_attention.place`."""

    norms: tuple[Tensor, Tensor] | None
    eps: float
    cos_sin: Tensor
    past: Tensor
    keys: Tensor
    values: Tensor


def _few(layer: Any, x: Tensor, added: Tensor | None, at: _Place) -> tuple[Tensor, Tensor]:
    """A layer for a decode step: what is `added` to x is left to the next norm."""
    from engine.kernels.gpu import add_norm
    from engine.kernels.gpu_attend_one import attend_one
    from engine.kernels.gpu_attention import attend, place
    from engine.kernels.gpu_product import project, project_in_parts

    attention, norm = layer.attention, layer.attention_norm
    x, y = add_norm(x, added, norm.weight, norm.eps)
    qkv = project(y, *_of(attention.wqkv))
    if len(x) == len(at.past):
        y = attend_one(qkv, *at)
    else:
        y = attend(place(qkv, *at), at.keys, at.values, at.past)
    norm = layer.ffn_norm
    x, y = add_norm(x, project_in_parts(y, *_of(attention.wo)), norm.weight, norm.eps)
    y = project(y, *_of(layer.gate_up), gated=True)
    return x, project_in_parts(y, *_of(layer.down))


def _many(layer: Any, x: Tensor, at: _Place, mask: Tensor | None) -> Tensor:
    """A layer for a prompt: products are torch's."""
    from engine.kernels.gpu import add_norm, gated
    from engine.kernels.gpu_attention import attend, place

    attention, norm = layer.attention, layer.attention_norm
    y = add_norm(x, None, norm.weight, norm.eps)[1]
    q = place(attention.wqkv(y), *at)
    if mask is None:
        y = attend(q, at.keys, at.values, at.past)
    else:
        y = _attend_many(q, at.keys, at.values, mask)
    added = attention.wo(y)
    norm = layer.ffn_norm
    x, y = add_norm(x, added, norm.weight, norm.eps)
    return x + layer.down(gated(layer.gate_up(y)))


def _of(linear: Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight, linear.bias


def _attend_many(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attend as `Attention.forward` does, with queries (rows * time, heads, head_dim)."""
    rows, kv_heads = keys.shape[:2]
    q = q.view(rows, -1, kv_heads, q.shape[1] // kv_heads, q.shape[2]).permute(0, 2, 3, 1, 4)
    groups, time = q.shape[2:4]
    y = F.scaled_dot_product_attention(q.flatten(2, 3), keys, values, mask)
    return y.unflatten(2, (groups, time)).permute(0, 3, 1, 2, 4).flatten(2).flatten(0, 1)


class GpuSlow(SlowGraph):
    """`extend`, the only method that serving calls, by kernels."""

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        from engine.kernels.gpu import add_norm
        from engine.kernels.gpu_product import project

        mask, time = None, tokens.shape[2]
        is_frame = time == 1 and by_kernels(self.embeddings.weight)
        x = self._embed_frame(tokens) if is_frame else self.embed(tokens)
        if time > FEW:
            positions = past_lengths[:, None] + self.count[:time]
            mask = self.mask(self.count[: keys.shape[3]] <= positions[:, :, None], x)
        cache = past_lengths, self.cos_sin, keys, values
        x, added = through(self.layers, x.flatten(0, 1), *cache, mask)
        if added is None:
            return self.ends(x.view(len(tokens), time, -1), lengths)
        x, normed = add_norm(x, added, self.norm.weight, self.norm.eps)
        if time > 1:
            last = torch.arange(0, len(x), time, device=x.device) + lengths - 1
            x, normed = x[last], normed[last]
        head: Any = self.head
        fast_input = self.to_fast(normed if self.norm_fast_input else x)
        return project(normed, *_of(head)), fast_input

    def _embed_frame(self, tokens: Tensor) -> Tensor:
        from engine.kernels.gpu import Codes, embed

        size = len(self.codebook_embeddings.weight) // self.offset.shape[1]
        semantic = self.semantic_begin, self.semantic_end, self.semantic_divisor
        codes = Codes(self.codebook_embeddings.weight, size, *semantic)
        return embed(tokens[:, :, 0].contiguous(), self.embeddings.weight, codes)[:, None]


@functools.cache
def _positions(count: int, rows: int, device: torch.device) -> Tensor:
    """Each position for every row, int64 (count, rows); made once, since a step has no time."""
    return torch.arange(count, device=device)[:, None].repeat(1, rows)


class GpuFast(FastGraph):
    """The fast transformer by kernels."""

    def entries(self, ids: Tensor) -> Tensor:
        from engine.kernels.gpu import embed

        return embed(ids, self.embeddings.weight)

    def choose(self, *inputs: Tensor) -> Tensor:
        from engine.kernels.gpu import sample

        return sample(*inputs)

    def advance(self, x: Tensor, begin: int, past: list[Past]) -> tuple[Tensor, list[Past]]:
        from engine.kernels.gpu import add_norm

        rows, time, _ = x.shape
        if not past:
            extents = rows, self.part.kv_heads, self.codebooks, self.part.head_dim
            past = [(x.new_empty(extents), x.new_empty(extents)) for _ in self.layers]
        lengths = _positions(self.codebooks, rows, x.device)[begin]
        keys, values = zip(*past, strict=True)
        x, added = through(self.layers, x.flatten(0, 1), lengths, self.cos_sin, keys, values)
        if added is not None:
            x = add_norm(x, added, self.norm.weight, self.norm.eps)[1]
        return x.view(rows, time, -1)[:, -1].contiguous(), past

    def scores(self, x: Tensor) -> Tensor:
        """Logits, of what `advance` returns: states in float32, else normed ones."""
        from engine.kernels.gpu_product import project

        head: Any = self.head
        return project(x, *_of(head)) if by_kernels(x) else super().scores(x)


class GpuGraphs(DualArGraphs):
    """`extend`, `sample_token` and `fast_loop` by kernels."""

    slow_type, fast_type = GpuSlow, GpuFast

    def __init__(self, shape: DualArShape, weights: Weights) -> None:
        super().__init__(shape, weights, layers_of(Linear), Linear)
        for graph in (self.slow, self.fast):
            graph.norm = KernelNorm(graph.norm.weight, graph.norm.eps)
