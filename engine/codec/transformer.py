"""The codec's causal transformers, rewritten so that they export, and stream over chunks.

Attention goes in blocks, so that its memory is linear in time.
Source: fish-speech 0.1.0, models/dac/modded_dac.py.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.carried import Carried
from engine.kernels.norm import RMSNorm
from families.fish_s1.upstream import codec_freqs_cis


class UnsupportedCodecError(ValueError):
    """The checkpoint's codec has a part that cannot be streamed exactly."""


class Blocks(NamedTuple):
    """Which positions of a chunk attention takes together.

    Attributes:
        queries: int64 (blocks, block), positions in the chunk.
        keys: int64 (blocks, window + block), likewise, the `window` positions before it included.
        mask: bool (blocks, block, window + block), what each query may see; or one for each row
            of the batch, (batch, 1, blocks, block, window + block).
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


def rotate(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotary position embedding over interleaved pairs, in float32.

    Args:
        x: (batch, time, heads, head_dim).
        cos_sin: float32 (batch or 1, time, head_dim / 2, 2).

    Returns:
        Like x.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs[..., 0], pairs[..., 1]
    cos, sin = cos_sin[..., None, :, 0], cos_sin[..., None, :, 1]
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).type_as(x)


class WindowAttention(nn.Module):
    """Causal self-attention over the last `window` positions, those of earlier chunks included."""

    def __init__(self, genuine: Any, window: int) -> None:
        super().__init__()
        self.wqkv = copy.deepcopy(genuine.wqkv)
        self.wo = copy.deepcopy(genuine.wo)
        self.heads = int(genuine.n_head)
        self.head_dim = int(genuine.head_dim)
        self.window = window
        self.kept = 2 * window * self.heads * self.head_dim  # numbers carried between chunks

    def with_window_before(self, x: Tensor, carried: Carried | None) -> Tensor:
        """(batch, time, heads, head_dim) -> the same, window + time."""
        if carried is None:
            return F.pad(x, (0, 0, 0, 0, self.window, 0))
        return carried.joined(x, (self.window, self.heads, self.head_dim), 1)

    def forward(
        self, x: Tensor, cos_sin: Tensor, blocks: Blocks, carried: Carried | None
    ) -> Tensor:
        """X (batch, time, dim), cos_sin as in `rotate`."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q, k = rotate(q, cos_sin), rotate(k, cos_sin)
        k, v = self.with_window_before(k, carried), self.with_window_before(v, carried)
        q, k, v = (  # (batch, heads, blocks, positions, head_dim)
            y[:, where].permute(0, 3, 1, 2, 4)
            for y, where in ((q, blocks.queries), (k, blocks.keys), (v, blocks.keys))
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=blocks.mask)
        return self.wo(y.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, : x.shape[1]].flatten(2))


class TransformerLayer(nn.Module):
    """Pre-norm attention and gated perceptron; layer scales are folded into the last weights."""

    def __init__(self, genuine: Any, window: int) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(genuine.attention_norm.weight, genuine.attention_norm.eps)
        self.attention = WindowAttention(genuine.attention, window)
        self.ffn_norm = RMSNorm(genuine.ffn_norm.weight, genuine.ffn_norm.eps)
        self.gate = copy.deepcopy(genuine.feed_forward.w1)
        self.up = copy.deepcopy(genuine.feed_forward.w3)
        self.down = copy.deepcopy(genuine.feed_forward.w2)
        scale = genuine.attention_layer_scale.gamma.detach()
        self.attention.wo.weight.data.mul_(scale[:, None])
        self.down.weight.data.mul_(genuine.ffn_layer_scale.gamma.detach()[:, None])

    def forward(
        self, x: Tensor, cos_sin: Tensor, blocks: Blocks, carried: Carried | None
    ) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos_sin, blocks, carried)
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class WindowTransformer(nn.Module):
    """Causal transformer with window-limited attention: (batch, channels, time) -> the same."""

    count: Tensor
    cos_sin: Tensor

    def __init__(self, genuine: Any, name: str) -> None:
        super().__init__()
        if genuine.window_size is None or not genuine.causal:
            raise UnsupportedCodecError(
                f"codec: {name} has window_size {genuine.window_size} and causal "
                f"{genuine.causal}, expected a causal window: without one no chunk can be exact."
            )
        if genuine.config.pos_embed_type != "rope":
            raise UnsupportedCodecError(
                f"codec: {name} has pos_embed_type {genuine.config.pos_embed_type}, expected rope."
            )
        self.project_in = copy.deepcopy(genuine.input_proj)
        self.project_out = copy.deepcopy(genuine.output_proj)
        self.layers = nn.ModuleList(
            TransformerLayer(layer, genuine.window_size) for layer in genuine.layers
        )
        self.norm = RMSNorm(genuine.norm.weight, genuine.norm.eps)
        self.window = int(genuine.window_size)
        self.reach = len(genuine.layers) * (self.window - 1)  # positions to the left
        self.rope_base = genuine.config.rope_base
        # Upstream rounds its table to bfloat16; parity needs the rounded values.
        self.register_buffer("cos_sin", genuine.freqs_cis.detach().float().clone())
        self._count_positions()

    def _count_positions(self) -> None:
        positions = max(len(self.cos_sin), 2 * self.window)
        self.register_buffer("count", torch.arange(positions), persistent=False)

    def extend(self, positions: int) -> None:
        """Know that many positions, beyond upstream's own if need be, by upstream's formula."""
        known, pairs = self.cos_sin.shape[:2]
        if positions > known:
            more = codec_freqs_cis(positions, 2 * pairs, self.rope_base).float()[known:]
            self.cos_sin = torch.cat([self.cos_sin, more])
            self._count_positions()

    def blocks(self, x: Tensor, start: Tensor | int, missing: Tensor | None) -> Blocks:
        """For a chunk x (batch, time, dim) with `start` positions before it.

        A block is a window, or the chunk if that is shorter. Of the last block, what lies beyond
        the end is the last position over again, and cut off in the end. Each row's first `missing`
        positions, int64 (batch, 1), are none; they see themselves, for softmax must see something.
        """
        time, block = x.shape[1], x[:, : self.window].shape[1]
        first = self.count[: (time + block - 1) // block, None] * block
        query, key = self.count[:block], self.count[: self.window + block]
        last = self.count[time - 1]  # on the device: a traced size is not, and clamp minds
        queries = torch.minimum(first + query, last)
        keys = torch.minimum(first + key, last + self.window)
        visible = (key > query[:, None]) & (key <= query[:, None] + self.window)
        begun = first + key + start >= self.window  # nothing lies before the first position
        mask = visible & begun[:, None]
        if missing is not None:
            found = first + key >= self.window + missing[:, None]  # batch, blocks, keys
            found = found[:, None, :, None] | (key == query[:, None] + self.window)
            mask = mask & found
        return Blocks(queries, keys, mask)

    def forward(
        self,
        x: Tensor,
        carried: Carried | None = None,
        positions: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> Tensor:
        """Args:
        x: All there is, or the next chunk of it.
        carried: From the chunks before.
        positions: int64 (batch, time), absolute; None: x begins where what is carried ends.
        missing: int64 (batch, 1), how many of the first positions of x are none.
        """
        x = self.project_in(x.transpose(1, 2))
        start = 0 if carried is None else carried.start
        blocks = self.blocks(x, start, missing)
        if positions is None:
            positions = start + self.count[None, : x.shape[1]]
        cos_sin = self.cos_sin[positions]
        for layer in self.layers:
            x = layer(x, cos_sin, blocks, carried)
        return self.project_out(self.norm(x)).transpose(1, 2)
