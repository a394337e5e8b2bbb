"""The dual autoregressive transformer as two graphs, with the KV cache as an input.

They are built from `llama.pt`, run by the runners (`engine.lm.load`) and written down by `export`.
Dtype and device are those of the weights; norms, rotation, softmax and sampling are float32.

Source: `BaseTransformer.forward_generate`, `DualARTransformer.forward_generate_fast` and
`decode_one_token_ar`, fish-speech 0.1.0, models/text2semantic.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from engine.kernels.norm import RMSNorm
from engine.kernels.rotary import Rotation, rotation
from engine.lm.layers import Layer, Past
from engine.lm.linear import MakeLinear
from engine.lm.sampler import sample
from engine.lm.shape import DualArShape, TransformerShape
from engine.lm.weights import Weights

# From a layer's weights, its transformer's shape and the epsilon of norms.
MakeLayer = Callable[[Weights, TransformerShape, float], nn.Module]


class SlowGraph(nn.Module):
    """The slow transformer, over new positions of a prompt or one generated frame.

    Only the tokens that can be sampled have logits; the export decides which.
    """

    offset: Tensor
    count: Tensor
    cos_sin: Tensor

    def __init__(
        self, shape: DualArShape, weights: Weights, layer: MakeLayer, exact: MakeLinear
    ) -> None:
        super().__init__()
        self.semantic_begin, self.semantic_end = shape.semantic_begin, shape.semantic_end
        scaled = shape.scale_codebook_embeddings
        self.semantic_divisor = math.sqrt(shape.num_codebooks + 1) if scaled else 1.0
        self.embeddings = nn.Embedding.from_pretrained(weights["embeddings.weight"])
        codebooks = weights["codebook_embeddings.weight"]
        self.codebook_embeddings = nn.Embedding.from_pretrained(codebooks)
        offset = torch.arange(shape.num_codebooks, device=codebooks.device) * shape.codebook_size
        self.register_buffer("offset", offset[None, :, None])
        self.layers = nn.ModuleList(
            layer(weights.under(f"layers.{i}"), shape.slow, shape.norm_eps)
            for i in range(shape.slow.layers)
        )
        self.norm = RMSNorm(weights["norm.weight"], shape.norm_eps)
        self.norm_fast_input = shape.norm_fast_input
        head = weights["head.weight"]
        self.choices = head.shape[0]
        self.head = exact(head, None)
        to_fast = weights.find("to_fast.weight")
        self.to_fast = nn.Identity()
        if to_fast is not None:
            self.to_fast = exact(to_fast, weights.find("to_fast.bias"))
        # Upstream rounds its table to bfloat16; parity needs the rounded values.
        self.register_buffer("cos_sin", weights["cos_sin"].float())
        self.register_buffer("count", torch.arange(len(self.cos_sin), device=head.device))

    def entries(self, table: nn.Module, ids: Tensor) -> Tensor:
        """Entries of an embedding, in the dtype of the activations."""
        return table(ids)

    def embed(self, tokens: Tensor) -> Tensor:
        """int64 (batch, 1 + codebooks, time) -> (batch, time, dim)."""
        ids = tokens[:, 0]
        semantic = ((ids >= self.semantic_begin) & (ids <= self.semantic_end))[..., None]
        codes = self.entries(self.codebook_embeddings, tokens[:, 1:] + self.offset).sum(dim=1)
        x = self.entries(self.embeddings, ids)
        return torch.where(semantic, (x + codes) / self.semantic_divisor, x)

    def mask(self, seen: Tensor, x: Tensor) -> Tensor:
        """Bool (batch, time, positions) -> the mask that `Attention` takes, a row per group."""
        mask = torch.where(seen, 0.0, float("-inf")).type_as(x)
        groups = cast(Layer, self.layers[0]).attention.groups
        return mask[:, None, None].expand(-1, -1, groups, -1, -1).flatten(2, 3)

    def forward(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        past_keys: Tensor,
        past_values: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run the graph without a state: the past stays as it is, the new keys are returned.

        Args:
            tokens: int64 (batch, 1 + codebooks, time), padded on the right.
            lengths: int64 (batch,), positions of `tokens` that count, >= 1.
            past_lengths: int64 (batch,), cached positions that count.
            past_keys, past_values: (layers, batch, kv heads, past, head_dim).

        Returns:
            Logits (batch, choices) and the fast transformer's input (batch, fast_dim) at each
            row's last position; new keys and values (layers, batch, kv heads, time, head_dim).
        """
        time, past = tokens.shape[2], past_keys.shape[3]
        of_past = (self.count[:past] < past_lengths[:, None])[:, None].expand(-1, time, -1)
        of_new = (self.count[:time] <= self.count[:time, None])[None]
        of_new = of_new.expand(past_lengths.shape[0], -1, -1)
        x, turn = self.embed(tokens), self.rotation(past_lengths, time)
        mask = self.mask(torch.cat([of_past, of_new], dim=-1), x)
        new = []
        for i, layer in enumerate(self.layers):
            x, present = layer(x, turn, (past_keys[i], past_values[i]), mask)
            new.append([tensor[:, :, past:] for tensor in present])
        keys, values = (torch.stack(tensors) for tensors in zip(*new, strict=True))
        return *self.ends(x, lengths), keys, values

    def extend(
        self,
        tokens: Tensor,
        lengths: Tensor,
        past_lengths: Tensor,
        keys: Tensor,
        values: Tensor,
        shared: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the graph and write the new keys and values behind the cached ones, in place.

        The arguments are those of `engine.lm.runner.NewPositions`; only kernels use `shared`.
        Returns the first two results of `forward`.
        """
        positions = past_lengths[:, None] + self.count[: tokens.shape[2]]
        x, turn = self.embed(tokens), self.rotation(past_lengths, tokens.shape[2])
        mask = self.mask(self.count[: keys.shape[3]] <= positions[:, :, None], x)
        places = self.count[: keys.shape[1], None], positions
        for i, layer in enumerate(self.layers):
            x, _ = layer(x, turn, (keys[i], values[i]), mask, places)
        return self.ends(x, lengths)

    def rotation(self, past_lengths: Tensor, time: int) -> Rotation:
        """Rotation of new positions behind the past."""
        return rotation(self.cos_sin[past_lengths[:, None] + self.count[:time]][:, None])

    def ends(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the fast transformer's input, at each row's last position."""
        last = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])
        return self.outputs(x.gather(1, last)[:, 0])

    def outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the fast transformer's input, of states (batch, dim)."""
        normed = self.norm(x)
        return self.head(normed), self.to_fast(normed if self.norm_fast_input else x)


class FastGraph(nn.Module):
    """The rest of one frame: the slow transformer's state and the semantic code to all codes."""

    cos_sin: Tensor
    causal: Tensor

    def __init__(
        self, shape: DualArShape, weights: Weights, layer: MakeLayer, exact: MakeLinear
    ) -> None:
        super().__init__()
        self.codebooks, self.part = shape.num_codebooks, shape.fast
        self.embeddings = nn.Embedding.from_pretrained(weights["embeddings.weight"])
        self.layers = nn.ModuleList(
            layer(weights.under(f"layers.{i}"), shape.fast, shape.norm_eps)
            for i in range(shape.fast.layers)
        )
        self.norm = RMSNorm(weights["norm.weight"], shape.norm_eps)
        head = weights["head.weight"]
        self.choices = head.shape[0]
        self.head = exact(head, None)
        self.register_buffer("cos_sin", weights["cos_sin"].float())
        causal = torch.tensor([[0.0, float("-inf")], [0.0, 0.0]])
        self.register_buffer("causal", causal.to(head)[None, None])

    def entries(self, ids: Tensor) -> Tensor:
        """Entries of the embedding, in the dtype of the activations."""
        return self.embeddings(ids)

    def choose(self, *inputs: Tensor) -> Tensor:
        """See `sampler.sample`."""
        return sample(*inputs)

    def advance(self, x: Tensor, begin: int, past: list[Past]) -> tuple[Tensor, list[Past]]:
        """Run (batch, time, fast_dim), whose positions start at `begin`, through all layers."""
        turn = rotation(self.cos_sin[begin : begin + x.shape[1]][None, None])
        causal = self.causal.repeat(1, 1, cast(Layer, self.layers[0]).attention.groups, 1)
        present = []
        for i, layer in enumerate(self.layers):
            x, kv = layer(x, turn, past[i] if past else None, None if past else causal)
            present.append(kv)
        return x[:, -1], present

    def scores(self, x: Tensor) -> Tensor:
        """Logits of the next code, of states (batch, fast_dim)."""
        return self.head(self.norm(x))

    def forward(
        self,
        state: Tensor,
        semantic: Tensor,
        previous: Tensor,
        temperature: Tensor,
        top_p: Tensor,
        repetition_penalty: Tensor,
        noise: Tensor,
        top_k: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sample the residual codes one after another.

        Args:
            state: (batch, fast_dim), from the slow transformer.
            semantic: int64 (batch,), the semantic code.
            previous: int64 (batch, codebooks - 1, PENALTY_FRAMES), residual codes of recent frames,
                or -1.
            temperature, top_p, repetition_penalty: float32 (batch,); see `sampler.sample`.
            noise: float32 (batch, codebooks - 1, choices), drawn from Exp(1).
            top_k: int64 (batch,), or None; see `sampler.sample`.

        Returns:
            codes int64 (batch, codebooks) and logits (batch, codebooks - 1, choices).
        """
        x = torch.stack([state, self.entries(semantic)], dim=1)  # positions 0 and 1
        past, codes, logits = [], [semantic], []
        more = () if top_k is None else (top_k,)
        for i in range(self.codebooks - 1):
            last, past = self.advance(x, i + 1 if past else 0, past)
            logits.append(self.scores(last))
            code = self.choose(
                logits[-1], previous[:, i], temperature, top_p, repetition_penalty, noise[:, i],
                *more,
            )  # fmt: skip
            codes.append(code)
            x = self.entries(code)[:, None]
        return torch.stack(codes, dim=1), torch.stack(logits, dim=1)


class DualArGraphs(nn.Module):
    """Both transformers and the sampler, over one set of weights.

    `layer` makes the layers. `exact` makes the products of the heads, which are never rounded to
    8 bits, since they lead to a choice.
    """

    slow_type, fast_type = SlowGraph, FastGraph

    def __init__(
        self, shape: DualArShape, weights: Weights, layer: MakeLayer, exact: MakeLinear
    ) -> None:
        super().__init__()
        self.slow = self.slow_type(shape, weights.under("slow"), layer, exact)
        self.fast = self.fast_type(shape, weights.under("fast"), layer, exact)

    def prefill(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See `SlowGraph.forward`."""
        return self.slow(*inputs)

    def decode_step(
        self, columns: Tensor, past_lengths: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run one frame, int64 (batch, 1 + codebooks); the rest is that of `SlowGraph.forward`."""
        one = torch.ones_like(past_lengths)
        return self.slow(columns[:, :, None], one, past_lengths, past_keys, past_values)

    def extend(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `SlowGraph.extend`."""
        return self.slow.extend(*inputs)

    def sample_token(self, *inputs: Tensor) -> Tensor:
        """See `sampler.sample`."""
        return self.fast.choose(*inputs)

    def fast_loop(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """See `FastGraph.forward`."""
        return self.fast(*inputs)
