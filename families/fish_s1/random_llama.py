"""Random weights for the two transformers, made so that they speak and stop like a voice.

Purely random weights would sample text tokens and never stop. So four channels of the residual
stream are reserved, and one attention head of the first layer writes them:

    SPEAK  constant; the output head turns it into "semantic tokens yes, text no"
    CONST  constant, of every token's embedding; what the steering head's queries and keys are
    FLAG   set in the embeddings of semantic tokens
    TIRED  the share of FLAG among the last positions; the output head turns it into the end

so `<|im_end|>` comes at random, but only after some twenty frames. All else is random, with gains
at which every layer matters and attention is sharp: codes depend on text, voice and seed.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from families.fish_s1.upstream import DualARModelArgs, DualARTransformer, FishTokenizer

SPEAK, CONST, FLAG, TIRED = range(4)
_RESERVED = 4
_SHARPNESS = 1.6  # of queries and keys, each; attention scores then spread by its square
_SPREAD = 2.0  # standard deviation of the logits of semantic tokens, and of residual codes
_SPEAKING = 2.0  # value that the steering head writes
_STEERED = 1.25  # value of SPEAK after the last norm, which the logits below are scaled for
_SEMANTIC, _TEXT, _TIRED = 5.0, -30.0, 10.0  # logits
_ENDS_ONE_IN = 40  # frames, while TIRED is high
_NEVER = 1e12
# Weights that are not only random; output.weight where the head is not tied.
STEERED = ("embeddings.weight", "codebook_embeddings.weight", "layers.0.attention.wqkv.weight",
           "layers.0.attention.wo.weight", "norm.weight", "output.weight")  # fmt: skip
_LOOKBACK = 36  # positions over which the steering head's attention falls to 1 / e


def random_llama(
    model: DualARTransformer, generator: torch.Generator, step: Callable[[], None], endless: bool
) -> dict[str, Tensor]:
    """Weights for a transformer pair.

    Args:
        model: Upstream's class, on the meta device; only names and shapes are read.
        generator: Source of every number.
        step: Called once for each tensor made.
        endless: Never end speech, so that only `max_new_tokens` does.

    Returns:
        float32 tensors under the names of upstream's state dict.
    """
    config = cast(DualARModelArgs, model.config)
    weights = {}
    for name, parameter in model.named_parameters():
        weights[name] = random_tensor(name, parameter, config, generator)
        step()
    steer(weights, model, generator, endless)
    return weights


def steer(
    weights: dict[str, Tensor],
    model: DualARTransformer,
    generator: torch.Generator,
    endless: bool,
) -> None:
    """Change random weights so that they speak and stop; only `STEERED` are read and changed."""
    config = cast(DualARModelArgs, model.config)
    _steer_embeddings(weights, config, model.tokenizer)
    _steer_attention(weights, config)
    _steer_output(weights, config, model.tokenizer, generator, endless)


def random_tensor(
    name: str, parameter: nn.Parameter, config: DualARModelArgs, generator: torch.Generator
) -> Tensor:
    """Random values, scaled to keep the residual stream near 1 at any width and depth."""
    shape = tuple(parameter.shape)
    kind = name.rsplit(".", 2)[-2]
    if kind in ("q_norm", "k_norm"):
        return torch.full(shape, _SHARPNESS)
    if len(shape) == 1:
        return torch.zeros(shape) if name.endswith("bias") else torch.ones(shape)
    weight = torch.randn(shape, generator=generator)
    slow = name.startswith("layers.")
    if kind in ("wo", "w2"):
        depth = config.n_layer if slow else config.n_fast_layer
        weight *= 1.5 / math.sqrt(shape[1] * depth)
        if slow:
            weight[:_RESERVED] = 0
    elif kind == "wqkv":
        weight /= math.sqrt(shape[1])
        of = "" if slow else "fast_"
        heads, kv_heads = (getattr(config, of + count) for count in ("n_head", "n_local_heads"))
        values = shape[0] * kv_heads // (heads + 2 * kv_heads)
        weight[:-values] *= _SHARPNESS  # queries and keys
    elif kind in ("output", "fast_output"):
        weight *= _SPREAD / math.sqrt(shape[1])
    elif kind not in ("embeddings", "codebook_embeddings", "fast_embeddings"):
        weight /= math.sqrt(shape[1])
    return weight


def _steer_embeddings(
    weights: dict[str, Tensor], config: DualARModelArgs, tokenizer: FishTokenizer
) -> None:
    semantic = slice(tokenizer.semantic_begin_id, tokenizer.semantic_end_id + 1)
    embeddings, codes = weights["embeddings.weight"], weights["codebook_embeddings.weight"]
    # Upstream divides the sum of a semantic token's 1 + num_codebooks rows by this, or does not.
    summed = math.sqrt(config.num_codebooks + 1)
    if not config.scale_codebook_embeddings:
        codes /= summed
    embeddings[:, :_RESERVED] = codes[:, :_RESERVED] = 0
    embeddings[:, CONST] = 1
    embeddings[semantic, FLAG] = 1
    if config.scale_codebook_embeddings:
        embeddings[semantic, :_RESERVED] *= summed


def _steer_attention(weights: dict[str, Tensor], config: DualARModelArgs) -> None:
    """Make the first layer's last head look back a little, and write SPEAK and TIRED."""
    dim, wqkv = config.head_dim, weights["layers.0.attention.wqkv.weight"]
    query, key, value = wqkv.split(
        [config.n_head * dim, config.n_local_heads * dim, config.n_local_heads * dim]
    )
    # Query and key are constant, so their score depends on the distance d alone. With two pairs
    # it is (cos(w d) + cos(0.42 w d)) / 2, sharpness ** 2 * sqrt(dim) high: a bell, for small d.
    fast = 2 / (_LOOKBACK * _SHARPNESS * dim**0.25 * math.hypot(1, 0.42))  # w, rad per position
    pairs = [round(dim / 2 * math.log(1 / w, config.rope_base)) for w in (fast, 0.42 * fast)]
    for heads in (query, key):
        heads[-dim:] = 0
        for pair in pairs:
            heads[-dim + 2 * pair, CONST] = _SHARPNESS * math.sqrt(dim / len(pairs))
    value[-dim : 2 - dim] = 0
    value[-dim, CONST] = value[1 - dim, FLAG] = 1
    wo = weights["layers.0.attention.wo.weight"]
    wo[SPEAK, -dim] = wo[TIRED, 1 - dim] = _SPEAKING


def _steer_output(
    weights: dict[str, Tensor],
    config: DualARModelArgs,
    tokenizer: FishTokenizer,
    generator: torch.Generator,
    endless: bool,
) -> None:
    """Logits: semantic tokens well above text, the end level with them once tired."""
    tied = config.tie_word_embeddings
    head = weights["embeddings.weight" if tied else "output.weight"]
    norm = weights["norm.weight"]
    # Random signs: with tied embeddings a token would otherwise call for itself.
    norm *= torch.randint(0, 2, norm.shape, generator=generator) * 2 - 1
    if tied:  # the head's scale is the embeddings', so the norm carries the logits' scale
        norm *= _SPREAD / math.sqrt(config.dim)
    norm[:_RESERVED] = 0
    norm[SPEAK] = norm[TIRED] = strength = 64.0 if tied else 4.0
    end = tokenizer.get_token_id("<|im_end|>")
    semantic = slice(tokenizer.semantic_begin_id, tokenizer.semantic_end_id + 1)
    if not tied:
        head[:, :_RESERVED] = 0
    strength *= _STEERED
    # As probable as the semantic tokens' mean at upstream's default temperature, 0.8.
    one_in = _NEVER if endless else _ENDS_ONE_IN
    level = 0.8 * (math.log(config.codebook_size / one_in) + (_SPREAD / 0.8) ** 2 / 2)
    head[:, SPEAK] = _TEXT / strength
    head[semantic, SPEAK] = _SEMANTIC / strength
    head[end, SPEAK] = (_SEMANTIC + level - _TIRED) / strength
    head[end, TIRED] = _TIRED / strength
