"""The language model on a CPU, its layers and its sampler by the C++ operators."""

from typing import Any

import torch
from torch import Tensor, nn

from engine.kernels.rounding import BYTES
from engine.kernels.transformer import FusedLayer, FusedLinear, FusedTransformer
from engine.lm.graphs import DualArGraphs, FastGraph, SlowGraph
from engine.lm.layers import Past
from engine.lm.on_torch import TorchRunner
from engine.lm.placement import Placement
from engine.lm.shape import DualArShape, TransformerShape
from engine.lm.weights import Weights


def kernel_layer(weights: Weights, eps: float, rounding: str) -> FusedLayer:
    """Make the products of one layer of either transformer; rounding as in `Placement`."""
    how: Any = {rounding: True} if rounding else {}
    attention, norm = weights.under("attention"), weights["ffn_norm.weight"]
    found = (attention.find(f"{name}.weight") for name in ("q_norm", "k_norm"))
    return FusedLayer(
        FusedLinear(
            attention["wqkv.weight"], attention.find("wqkv.bias"),
            weights["attention_norm.weight"], eps=eps, **how,
        ),
        FusedLinear(attention["wo.weight"], attention.find("wo.bias"), **how),
        FusedLinear(weights["gate_up.weight"], norm=norm, eps=eps, **how),
        FusedLinear(weights["down.weight"], gated=True, **how),
        head_norms=[norm for norm in found if norm is not None],
    )  # fmt: skip


class CpuSlow(SlowGraph):
    """`extend`, the only method that serving calls, by the operators."""

    def __init__(self, shape: DualArShape, *parts: Any) -> None:
        super().__init__(shape, *parts)
        self.stack = FusedTransformer(self.layers, shape.norm_eps)

    def entries(self, table: nn.Module, ids: Tensor) -> Tensor:
        return table(ids).float()

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x, past = self.embed(tokens), (past_lengths, self.cos_sin, keys, values)
        return self.ends(self.stack(x, *past, shared=shared), lengths)


class CpuFast(FastGraph):
    """The fast transformer by the operators; its few keys and values stay float32."""

    def __init__(self, shape: DualArShape, *parts: Any) -> None:
        super().__init__(shape, *parts)
        self.stack = FusedTransformer(self.layers, shape.norm_eps)

    def entries(self, ids: Tensor) -> Tensor:
        return self.embeddings(ids).float()

    def choose(self, *inputs: Tensor) -> Tensor:
        return torch.ops.voicereel.sample(*inputs)

    def advance(self, x: Tensor, begin: int, past: list[Past]) -> tuple[Tensor, list[Past]]:
        if not past:  # keys and values of all layers at once
            part, rows = self.part, (len(self.layers), x.shape[0])
            extents = (*rows, part.kv_heads, self.codebooks, part.head_dim)
            past = [(x.new_empty(extents), x.new_empty(extents))]
        lengths = torch.full((x.shape[0],), begin)
        return self.stack(x, lengths, self.cos_sin, *past[0])[:, -1], past


class CpuGraphs(DualArGraphs):
    """`extend`, `sample_token` and `fast_loop` by the C++ operators."""

    slow_type, fast_type = CpuSlow, CpuFast

    def __init__(self, shape: DualArShape, weights: Weights, rounding: str = "") -> None:
        def layer(weights: Weights, part: TransformerShape, eps: float) -> FusedLayer:
            return kernel_layer(weights, eps, rounding)

        super().__init__(shape, weights, layer, FusedLinear)


class CpuRunner(TorchRunner):
    """`CpuGraphs`, traced. Activations are float32; a row has the same bits in every batch."""

    reads_shared = True

    @staticmethod
    def graphs_of(
        shape: DualArShape, tensors: dict[str, Tensor], placement: Placement
    ) -> DualArGraphs:
        weights = Weights(tensors, lambda t: t.to(placement.dtype))
        return CpuGraphs(shape, weights, placement.rounding).eval()

    def _bytes_of_layers(self) -> float:
        return BYTES.get(self.placement.rounding, self.dtype.itemsize)

    def _state_dtype(self) -> torch.dtype:
        return torch.float32

    def _is_batch_invariant(self, graphs: DualArGraphs) -> bool:
        return True
