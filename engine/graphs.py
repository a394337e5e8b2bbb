"""The dual autoregressive transformer as two stateless graphs, with the KV cache as an input.

Built from the genuine model, traced by `export`, run by `engine.llama`. Dtype and device follow
the parameters; norms, rotation, softmax and sampling are float32.

Source: `BaseTransformer.forward_generate`, `DualARTransformer.forward_generate_fast` and
`decode_one_token_ar`, fish-speech 0.1.0, models/text2semantic.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.sampler import sample


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(genuine.weight.detach().clone())
        self.eps = float(genuine.eps)

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

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.wqkv = copy.deepcopy(genuine.wqkv)
        self.wo = copy.deepcopy(genuine.wo)
        self.kv_heads = int(genuine.n_local_heads)
        self.groups = int(genuine.n_head) // self.kv_heads
        self.head_dim = int(genuine.head_dim)
        normed = genuine.attention_qk_norm
        self.q_norm = RMSNorm(genuine.q_norm) if normed else nn.Identity()
        self.k_norm = RMSNorm(genuine.k_norm) if normed else nn.Identity()

    def qkv(self, x: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """X (batch, time, dim) -> q (batch, heads, time, d), k and v (batch, kv heads, time, d)."""
        heads = self.wqkv(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        count = self.groups * self.kv_heads
        q, k, v = heads.split([count, self.kv_heads, self.kv_heads], dim=1)
        return rotate(self.q_norm(q), cos_sin), rotate(self.k_norm(k), cos_sin), v

    def forward(
        self, x: Tensor, cos_sin: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend; the cache is read where it lies and never copied.

        Args:
            x: (batch, time, dim).
            cos_sin: float32 (batch or 1, 1, time, d / 2, 2), rotation of the new positions.
            past: Cached k and v, (batch, kv heads, past, d) each, or None.
            mask: float32 (batch or 1, 1, 1, time, past + time), 0 or -inf; None: all visible.

        Returns:
            (batch, time, dim), and the new positions' k and v (batch, kv heads, time, d).
        """
        time = x.shape[1]
        q, k, v = self.qkv(x, cos_sin)
        # Query heads that share a KV head become rows of one matrix product.
        q = (q * self.head_dim**-0.5).unflatten(1, (self.kv_heads, self.groups)).flatten(2, 3)
        scores = q @ k.transpose(2, 3)
        if past is not None:
            scores = torch.cat([q @ past[0].transpose(2, 3), scores], dim=-1)
        scores = scores.float().unflatten(2, (self.groups, time))
        if mask is not None:
            scores = scores + mask
        weights = torch.softmax(scores, dim=-1).type_as(x).flatten(2, 3)
        if past is None:
            y = weights @ v
        else:
            length = past[1].shape[2]
            y = weights[..., :length] @ past[1] + weights[..., length:] @ v
        y = y.unflatten(2, (self.groups, time)).permute(0, 3, 1, 2, 4).flatten(2)
        return self.wo(y), k, v


class Layer(nn.Module):
    """Pre-norm attention and gated perceptron."""

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(genuine.attention_norm)
        self.attention = Attention(genuine.attention)
        self.ffn_norm = RMSNorm(genuine.ffn_norm)
        self.gate = copy.deepcopy(genuine.feed_forward.w1)
        self.up = copy.deepcopy(genuine.feed_forward.w3)
        self.down = copy.deepcopy(genuine.feed_forward.w2)

    def forward(
        self, x: Tensor, cos_sin: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        attended, k, v = self.attention(self.attention_norm(x), cos_sin, past, mask)
        x = x + attended
        y = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), k, v


class SlowGraph(nn.Module):
    """New positions of a prompt, or one generated frame, through the slow transformer.

    Only the tokens that can be sampled have logits: `token_ids`, a choice made at export.
    """

    offset: Tensor
    count: Tensor
    cos_sin: Tensor

    def __init__(self, genuine: Any, token_ids: Tensor) -> None:
        super().__init__()
        config, tokenizer = genuine.config, genuine.tokenizer
        self.semantic_begin = int(tokenizer.semantic_begin_id)
        self.semantic_end = int(tokenizer.semantic_end_id)
        scaled = config.scale_codebook_embeddings
        self.semantic_divisor = math.sqrt(config.num_codebooks + 1) if scaled else 1.0
        self.embeddings = copy.deepcopy(genuine.embeddings)
        self.codebook_embeddings = copy.deepcopy(genuine.codebook_embeddings)
        offset = torch.arange(config.num_codebooks) * config.codebook_size
        self.register_buffer("offset", offset[None, :, None])
        self.layers = nn.ModuleList(Layer(layer) for layer in genuine.layers)
        self.norm = RMSNorm(genuine.norm)
        head = genuine.embeddings if config.tie_word_embeddings else genuine.output
        self.head = nn.Parameter(head.weight.detach()[token_ids].clone())
        self.to_fast = copy.deepcopy(genuine.fast_project_in)
        self.register_buffer("count", torch.arange(config.max_seq_len))
        # Upstream rounds its table to bfloat16; parity needs the rounded values.
        self.register_buffer("cos_sin", genuine.freqs_cis.detach().float())

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 (batch, 1 + codebooks, time) -> (batch, time, dim)."""
        ids = tokens[:, 0]
        semantic = ((ids >= self.semantic_begin) & (ids <= self.semantic_end))[..., None]
        codes = self.codebook_embeddings(tokens[:, 1:] + self.offset).sum(dim=1)
        x = self.embeddings(ids)
        return torch.where(semantic, (x + codes) / self.semantic_divisor, x)

    def mask(self, past_lengths: Tensor, past: int, time: int) -> Tensor:
        """0 where a new position may look, else -inf: (batch, 1, 1, time, past + time)."""
        of_past = (self.count[:past] < past_lengths[:, None])[:, None].expand(-1, time, -1)
        of_new = (self.count[:time] <= self.count[:time, None])[None]
        of_new = of_new.expand(past_lengths.shape[0], -1, -1)
        seen = torch.cat([of_past, of_new], dim=-1)
        return torch.where(seen, 0.0, float("-inf"))[:, None, None]

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prefill, from any past.

        Args:
            tokens: int64 (batch, 1 + codebooks, time), padded on the right.
            lengths: int64 (batch,), positions of `tokens` that count, >= 1.
            past_lengths: int64 (batch,), cached positions that count.
            past_keys, past_values: (layers, batch, kv heads, past, head_dim).

        Returns:
            Logits (batch, token_ids) and the fast transformer's input (batch, fast_dim) at each
            row's last position; new keys and values (layers, batch, kv heads, time, head_dim).
        """
        time, past = tokens.shape[2], past_keys.shape[3]
        x = self.embed(tokens)
        positions = past_lengths[:, None] + self.count[:time]
        cos_sin = self.cos_sin[positions].float()[:, None]
        mask = self.mask(past_lengths, past, time)
        keys, values = [], []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, cos_sin, (past_keys[i], past_values[i]), mask)
            keys.append(k)
            values.append(v)
        last = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])
        x = x.gather(1, last)[:, 0]
        logits = F.linear(self.norm(x), self.head)
        return logits, self.to_fast(x), torch.stack(keys), torch.stack(values)


class FastGraph(nn.Module):
    """The rest of one frame: the slow transformer's state and the semantic code to all codes."""

    cos_sin: Tensor
    causal: Tensor

    def __init__(self, genuine: Any) -> None:
        super().__init__()
        config = genuine.config
        self.codebooks = int(config.num_codebooks)
        self.embeddings = copy.deepcopy(genuine.fast_embeddings)
        self.layers = nn.ModuleList(Layer(layer) for layer in genuine.fast_layers)
        self.norm = RMSNorm(genuine.fast_norm)
        # Upstream samples residual codes from the first 1024 logits, the codec's codebook size.
        self.head = nn.Parameter(genuine.fast_output.weight.detach()[:1024].clone())
        self.register_buffer("cos_sin", genuine.fast_freqs_cis.detach().float()[None, None])
        self.register_buffer("causal", torch.tensor([[0.0, float("-inf")], [0.0, 0.0]]))

    def advance(self, x: Tensor, begin: int, past: list | None) -> tuple[Tensor, list]:
        """(batch, time, fast_dim) at positions from `begin` on, through all layers."""
        cos_sin = self.cos_sin[:, :, begin : begin + x.shape[1]]
        mask = self.causal if past is None else None
        present = []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, cos_sin, past and past[i], mask)
            if past is not None:
                k, v = torch.cat([past[i][0], k], dim=2), torch.cat([past[i][1], v], dim=2)
            present.append((k, v))
        return x[:, -1], present

    def forward(
        self,
        state: Tensor,
        semantic: Tensor,
        previous: Tensor,
        temperature: Tensor,
        top_p: Tensor,
        repetition_penalty: Tensor,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Sample the residual codes one after another.

        Args:
            state: (batch, fast_dim), from the slow transformer.
            semantic: int64 (batch,), the semantic code.
            previous: int64 (batch, codebooks - 1, WINDOW), residual codes of late frames, or -1.
            temperature, top_p, repetition_penalty: float32 (batch,); see `sampler.sample`.
            noise: float32 (batch, codebooks - 1, choices), drawn from Exp(1).

        Returns:
            codes int64 (batch, codebooks) and logits (batch, codebooks - 1, choices).
        """
        x = torch.stack([state, self.embeddings(semantic)], dim=1)  # positions 0 and 1
        past, codes, logits = None, [semantic], []
        for i in range(self.codebooks - 1):
            last, past = self.advance(x, i + 1 if past else 0, past)
            logits.append(F.linear(self.norm(last), self.head))
            code = sample(
                logits[-1], previous[:, i], temperature, top_p, repetition_penalty, noise[:, i]
            )
            codes.append(code)
            x = self.embeddings(code)[:, None]
        return torch.stack(codes, dim=1), torch.stack(logits, dim=1)


class LlamaGraphs(nn.Module):
    """Both transformers and the sampler, traced into one file with one set of weights."""

    def __init__(self, genuine: Any, token_ids: Tensor) -> None:
        super().__init__()
        self.slow = SlowGraph(genuine, token_ids)
        self.fast = FastGraph(genuine)

    def prefill(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `SlowGraph.forward`."""
        return self.slow(*inputs)

    def decode_step(
        self, columns: Tensor, past_lengths: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One frame, int64 (batch, 1 + codebooks); else as `SlowGraph.forward`."""
        one = torch.ones_like(past_lengths)
        return self.slow(columns[:, :, None], one, past_lengths, past_keys, past_values)

    def sample_token(self, *inputs: Tensor) -> Tensor:
        """See `sampler.sample`."""
        return sample(*inputs)

    def fast_loop(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `FastGraph.forward`."""
        return self.fast(*inputs)
