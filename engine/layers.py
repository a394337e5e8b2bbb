"""Norm, rotation, attention and perceptron: one layer of either transformer.

Source: fish-speech 0.1.0, models/text2semantic/llama.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.linear import MakeLinear
from engine.weights import BlockShape, Weights

Past = tuple[Tensor, Tensor]  # keys and values, (batch, kv heads, positions, head_dim) each


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(torch.mean(y * y, dim=-1, keepdim=True) + self.eps)
        return y.type_as(x) * self.weight


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotary embedding over interleaved pairs: x (batch, heads, time, dim),
    cos_sin float32 (batch or 1, 1, time, dim / 2, 2).
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos_sin[..., 0], cos_sin[..., 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)


class Attention(nn.Module):
    """Grouped-query attention of new positions over cached ones and themselves."""

    def __init__(self, weights: Weights, block: BlockShape, eps: float, linear: MakeLinear) -> None:
        super().__init__()
        wqkv = weights["wqkv.weight"]
        self.wqkv = linear(wqkv, weights.find("wqkv.bias"))
        self.wo = linear(weights["wo.weight"], weights.find("wo.bias"))
        self.kv_heads, self.head_dim = block.kv_heads, block.head_dim
        self.groups = wqkv.shape[0] // block.head_dim // block.kv_heads - 2
        q_norm, k_norm = weights.find("q_norm.weight"), weights.find("k_norm.weight")
        self.q_norm = nn.Identity() if q_norm is None else RMSNorm(q_norm, eps)
        self.k_norm = nn.Identity() if k_norm is None else RMSNorm(k_norm, eps)

    def qkv(self, x: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X (batch, time, dim) -> q (batch, heads, time, d), k and v (batch, kv heads, time, d)."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        count = self.groups * self.kv_heads
        q, k, v = heads.split([count, self.kv_heads, self.kv_heads], dim=1)
        return rotate(self.q_norm(q), cos_sin), rotate(self.k_norm(k), cos_sin), v

    def forward(
        self,
        x: Tensor,
        cos_sin: Tensor,
        past: Past | None,
        mask: Tensor | None,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Past]:
        """Attend.

        Args:
            x: (batch, time, dim).
            cos_sin: float32 (batch or 1, 1, time, d / 2, 2), rotation of the new positions.
            past: What is cached.
            mask: As x, (batch or 1, 1, groups * time, positions), 0 or -inf; None: all visible.
            places: int64 rows (batch, 1) and positions (batch, time). If given, the new keys and
                values are written into `past` there, and it is read where it lies; else they are
                joined to a copy.

        Returns:
            (batch, time, dim), and the keys and values that were looked at.
        """
        time = x.shape[1]
        q, k, v = self.qkv(x, cos_sin)
        keys, values = k, v
        if past is not None and places is not None:
            # scatter_ goes over the whole cache in bfloat16 (torch 2.13).
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

    def __init__(self, weights: Weights, block: BlockShape, eps: float, linear: MakeLinear) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(weights["attention_norm.weight"], eps)
        self.attention = Attention(weights.under("attention"), block, eps, linear)
        self.ffn_norm = RMSNorm(weights["ffn_norm.weight"], eps)
        self.gate_up = linear(weights["gate_up.weight"], None)
        self.down = linear(weights["down.weight"], None)

    def forward(
        self,
        x: Tensor,
        cos_sin: Tensor,
        past: Past | None,
        mask: Tensor | None,
        places: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Past]:
        attended, present = self.attention(self.attention_norm(x), cos_sin, past, mask, places)
        x = x + attended
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up), present
