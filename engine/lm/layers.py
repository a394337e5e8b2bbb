"""One layer of either transformer: norm, attention and gated perceptron, by torch's operators.

Source: fish-speech 0.1.0, models/text2semantic/llama.py.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kernels.norm import RMSNorm, rms_norm
from engine.kernels.rotary import Rotation, rotate
from engine.lm.linear import MakeLinear
from engine.lm.shape import TransformerShape
from engine.lm.weights import Weights

Past = tuple[Tensor, Tensor]  # keys and values, (batch, kv heads, positions, head_dim) each


class Attention(nn.Module):
    """Grouped-query attention of new positions over cached ones and themselves."""

    def __init__(
        self, weights: Weights, part: TransformerShape, eps: float, linear: MakeLinear
    ) -> None:
        super().__init__()
        wqkv = weights["wqkv.weight"]
        self.wqkv = linear(wqkv, weights.find("wqkv.bias"))
        self.wo = linear(weights["wo.weight"], weights.find("wo.bias"))
        self.kv_heads, self.head_dim = part.kv_heads, part.head_dim
        self.groups = wqkv.shape[0] // part.head_dim // part.kv_heads - 2
        q_norm, k_norm = weights.find("q_norm.weight"), weights.find("k_norm.weight")
        self.q_norm = None if q_norm is None else RMSNorm(q_norm, eps)
        self.k_norm = None if k_norm is None else RMSNorm(k_norm, eps)
        self.eps = eps

    def qkv(self, x: Tensor, rotation: Rotation) -> list[Tensor]:
        """X (batch, time, dim) -> q (batch, heads, time, d), k and v (batch, kv heads, time, d)."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        count = self.groups * self.kv_heads
        qk, v = heads.split([count + self.kv_heads, self.kv_heads], dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            # Both in one: a step is many small operations, and each costs its call.
            norms = (self.q_norm, count), (self.k_norm, self.kv_heads)
            weight = torch.cat([norm.weight.expand(n, 1, -1) for norm, n in norms])
            qk = rms_norm(qk, weight, self.eps)
        return [*rotate(qk, rotation).split([count, self.kv_heads], dim=1), v]

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        past: Past | None,
        mask: Tensor | None,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Past]:
        """Attend.

        Args:
            x: (batch, time, dim).
            rotation: Of the new positions.
            past: Cached keys and values.
            mask: (batch or 1, 1, groups * time, positions), 0 or -inf, of the dtype of x; None:
                all is visible.
            places: int64 rows (batch, 1) and positions (batch, time). If given, the new keys and
                values are written into `past` there, and it is read in place; else they are
                appended to a copy of it.

        Returns:
            (batch, time, dim), and the keys and values that were attended to.
        """
        time = x.shape[1]
        q, k, v = self.qkv(x, rotation)
        keys, values = k, v
        if past is not None and places is not None:
            # scatter_ would go over the whole cache in bfloat16 (torch 2.13).
            for cached, new in zip(past, (k, v), strict=True):
                cached.transpose(1, 2).index_put_(places, new.transpose(1, 2))
            keys, values = past
        elif past is not None:
            keys, values = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        # Query heads that share a KV head become rows of one product: the cache is read once.
        q = q.unflatten(1, (self.kv_heads, self.groups)).flatten(2, 3)
        y = F.scaled_dot_product_attention(q, keys, values, mask)
        y = y.unflatten(2, (self.groups, time)).permute(0, 3, 1, 2, 4).flatten(2)
        return self.wo(y), (keys, values)


class Layer(nn.Module):
    """Pre-norm attention and gated perceptron."""

    def __init__(
        self, weights: Weights, part: TransformerShape, eps: float, linear: MakeLinear
    ) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(weights["attention_norm.weight"], eps)
        self.attention = Attention(weights.under("attention"), part, eps, linear)
        self.ffn_norm = RMSNorm(weights["ffn_norm.weight"], eps)
        self.gate_up = linear(weights["gate_up.weight"], None)
        self.down = linear(weights["down.weight"], None)

    def forward(
        self,
        x: Tensor,
        rotation: Rotation,
        past: Past | None,
        mask: Tensor | None,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Past]:
        attended, present = self.attention(self.attention_norm(x), rotation, past, mask, places)
        x = x + attended
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), present


def layers_of(linear: MakeLinear) -> Callable[[Weights, TransformerShape, float], Layer]:
    """A function that makes layers, given one that makes their products."""

    def layer(weights: Weights, part: TransformerShape, eps: float) -> Layer:
        return Layer(weights, part, eps, linear)

    return layer
