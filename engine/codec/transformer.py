"""The codec's causal transformers, rewritten so that they export, and stream over chunks.

Attention goes in blocks, so that its memory is linear in time.
Source: fish-speech 0.1.0, models/dac/modded_dac.py.
"""

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.codec.streaming import StreamState
from engine.kernels.norm import RMSNorm
from engine.kernels.rotary import Rotation, rotate, rotation


class UnsupportedCodecError(ValueError):
    """The checkpoint's codec has a part that cannot be streamed exactly."""


def rotary_table(positions: int, head_dim: int, base: float) -> Tensor:
    """Cosine and sine of every position and pair, as upstream's codec has them.

    Upstream rounds its table to bfloat16, and parity needs the rounded values.
    Source: `precompute_freqs_cis`, fish-speech 0.1.0, models/dac/modded_dac.py.

    Returns:
        float32 (positions, head_dim / 2, 2).
    """
    frequencies = 1.0 / base ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(positions), frequencies)
    turns = torch.polar(torch.ones_like(angles), angles)
    return torch.stack([turns.real, turns.imag], dim=-1).bfloat16().float()


class Blocks(NamedTuple):
    """Which positions of a chunk attention takes together.

    Attributes:
        queries: int64 (blocks, block), positions in the chunk.
        keys: int64 (blocks, window + block), positions in the chunk with the `window` positions
            before it in front.
        mask: bool (blocks, block, window + block), what each query may see; or one for each row
            of the batch, (batch, 1, blocks, block, window + block).
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor


class WindowAttention(nn.Module):
    """Causal self-attention over the last `window` positions, those of earlier chunks included.

    Its state is the keys and values of these positions.
    """

    def __init__(self, genuine: Any, window: int) -> None:
        super().__init__()
        self.wqkv = copy.deepcopy(genuine.wqkv)
        self.wo = copy.deepcopy(genuine.wo)
        self.heads = int(genuine.n_head)
        self.head_dim = int(genuine.head_dim)
        self.window = window
        self.state_size = 2 * window * self.heads * self.head_dim

    def with_window_before(self, x: Tensor, state: StreamState | None) -> Tensor:
        """(batch, time, heads, head_dim) -> (batch, window + time, heads, head_dim)."""
        if state is None:
            return F.pad(x, (0, 0, 0, 0, self.window, 0))
        return state.prepended(x, (self.window, self.heads, self.head_dim), 1)

    def forward(self, x: Tensor, by: Rotation, blocks: Blocks, state: StreamState | None) -> Tensor:
        """(batch, time, dim) -> the same."""
        q, k, v = self.wqkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(2)
        q, k = rotate(q, by), rotate(k, by)
        k, v = self.with_window_before(k, state), self.with_window_before(v, state)
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

    def forward(self, x: Tensor, by: Rotation, blocks: Blocks, state: StreamState | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), by, blocks, state)
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
        self.reach = len(genuine.layers) * (self.window - 1)  # positions before one that it hears
        self.rope_base = genuine.config.rope_base
        self.register_buffer("cos_sin", genuine.freqs_cis.detach().float().clone())
        self._count_positions()

    def _count_positions(self) -> None:
        positions = max(len(self.cos_sin), 2 * self.window)
        self.register_buffer("count", torch.arange(positions), persistent=False)

    def extend(self, positions: int) -> None:
        """Lengthen the table to that many positions, if upstream's own is shorter."""
        known, pairs = self.cos_sin.shape[:2]
        if positions > known:
            more = rotary_table(positions, 2 * pairs, self.rope_base)[known:]
            self.cos_sin = torch.cat([self.cos_sin, more])
            self._count_positions()

    def blocks(self, x: Tensor, start: Tensor | int, missing: Tensor | None) -> Blocks:
        """Cut a chunk into blocks for attention, so that its memory is linear in time.

        A block is as long as the window, or as the chunk if that is shorter. The last block repeats
        the chunk's last position beyond its end, which `WindowAttention` cuts off.

        Args:
            x: (batch, time, dim), the chunk.
            start: Positions before it.
            missing: int64 (batch, 1), how many of each row's first positions are padding. They see
                themselves, since a softmax over nothing is not a number.
        """
        time, block = x.shape[1], x[:, : self.window].shape[1]
        first = self.count[: (time + block - 1) // block, None] * block
        query, key = self.count[:block], self.count[: self.window + block]
        last = self.count[time - 1]  # on the device: a traced size is not, and clamp refuses it
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
        state: StreamState | None = None,
        positions: Tensor | None = None,
        missing: Tensor | None = None,
    ) -> Tensor:
        """(batch, channels, time) -> the same.

        Args:
            x: All of the audio, or the next chunk of it.
            state: Of the chunks before.
            positions: int64 (batch, time), absolute; None: x begins where the last chunk ended.
            missing: int64 (batch, 1), how many of the first positions of x are padding.
        """
        x = self.project_in(x.transpose(1, 2))
        start = 0 if state is None else state.start
        blocks = self.blocks(x, start, missing)
        if positions is None:
            positions = start + self.count[None, : x.shape[1]]
        by = rotation(self.cos_sin[positions][:, :, None])
        for layer in self.layers:
            x = layer(x, by, blocks, state)
        return self.project_out(self.norm(x)).transpose(1, 2)
