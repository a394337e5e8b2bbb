"""Upstream's two transformers under the engine's names, and the facts about them.

Source: fish-speech 0.1.0, models/text2semantic/llama.py (`DualARTransformer`).
"""

from typing import Any

import torch
from torch import Tensor

from engine.lm.shape import DualArShape, TransformerShape
from families.fish_s1.upstream import DualARModelArgs
from families.registry import Checkpoint, EngineLlama
from families.speech import speech_facts

_TOP_CODES = 1024  # upstream samples residual codes from the first 1024 logits only
# Parts of upstream's names -> parts of the engine's.
_NAMES = {
    "feed_forward.w2": "down",
    "fast_project_in": "to_fast",
    "fast_embeddings": "embeddings",
    "fast_layers": "layers",
    "fast_norm": "norm",
    "fast_output": "head",
}


def engine_llama(
    genuine: Any, full_vocabulary: bool, num_codes: int | None = _TOP_CODES
) -> EngineLlama:
    """Convert upstream's language model.

    Args:
        genuine: Upstream's model.
        full_vocabulary: Logits for all tokens; otherwise for the semantic ones and the end.
        num_codes: Residual codes, from the first on, that can be sampled; None: all.
    """
    token_ids = _sampled_tokens(genuine, full_vocabulary)
    tensors = _tensors(genuine, token_ids)
    if num_codes is not None:
        tensors["fast.head.weight"] = tensors["fast.head.weight"][:num_codes]
    return EngineLlama(_shape(genuine), tensors, token_ids)


def language_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of `Facts` that describe the language model of a checkpoint and how it speaks."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    return {
        "vocab_size": int(config.vocab_size),
        "max_seq_len": int(config.max_seq_len),
        "semantic_begin_id": int(tokenizer.semantic_begin_id),
        "num_semantic": _num_semantic(config, tokenizer),
        "im_end_id": int(tokenizer.get_token_id("<|im_end|>")),
        "num_layers": int(config.n_layer),
        "num_kv_heads": int(config.n_local_heads),
        "head_dim": int(config.head_dim),
        **speech_facts(checkpoint.path),
    }


def _num_semantic(config: DualARModelArgs, tokenizer: Any) -> int:
    """Semantic codes of the model; a tokenizer may have more semantic tokens than those."""
    tokens = tokenizer.semantic_end_id - tokenizer.semantic_begin_id + 1
    return int(min(tokens, config.codebook_size))


def _sampled_tokens(genuine: Any, full_vocabulary: bool) -> Tensor:
    """Ids of the tokens that get logits."""
    tokenizer = genuine.tokenizer
    if full_vocabulary:
        return torch.arange(genuine.config.vocab_size)
    begin = tokenizer.semantic_begin_id
    semantic = torch.arange(begin, begin + _num_semantic(genuine.config, tokenizer))
    return torch.cat([semantic, torch.tensor([tokenizer.get_token_id("<|im_end|>")])])


def _shape(genuine: Any) -> DualArShape:
    """The numbers that the weights' own shapes do not tell."""
    config, tokenizer = genuine.config, genuine.tokenizer
    return DualArShape(
        slow=TransformerShape(config.n_layer, config.n_local_heads, config.head_dim),
        fast=TransformerShape(config.n_fast_layer, config.fast_n_local_heads, config.fast_head_dim),
        num_codebooks=config.num_codebooks,
        codebook_size=config.codebook_size,
        semantic_begin=int(tokenizer.semantic_begin_id),
        semantic_end=int(tokenizer.semantic_end_id),
        scale_codebook_embeddings=bool(config.scale_codebook_embeddings),
        norm_eps=float(config.norm_eps),
    )


def _tensors(genuine: Any, token_ids: Tensor) -> dict[str, Tensor]:
    """The weights under the engine's names, with the rows of the heads that are sampled from."""
    tensors = {}
    for name, tensor in genuine.state_dict().items():
        to_slow = not name.startswith("fast_") or name.startswith("fast_project_in")
        new = ("slow." if to_slow else "fast.") + name
        for theirs, ours in _NAMES.items():
            new = new.replace(theirs, ours)
        tensors[new] = tensor.detach()
    for name in [n for n in tensors if n.endswith("feed_forward.w1.weight")]:
        layer = name.removesuffix("feed_forward.w1.weight")
        gate, up = tensors.pop(name), tensors.pop(f"{layer}feed_forward.w3.weight")
        tensors[f"{layer}gate_up.weight"] = torch.cat([gate, up])
    tensors.pop("slow.output.weight", None)
    head = genuine.embeddings if genuine.config.tie_word_embeddings else genuine.output
    tensors["slow.head.weight"] = head.weight.detach()[token_ids]
    # Upstream rounds its rotary tables to bfloat16; parity needs the rounded values.
    tensors["slow.cos_sin"] = genuine.freqs_cis.detach().float()
    tensors["fast.cos_sin"] = genuine.fast_freqs_cis.detach().float()
    return tensors
