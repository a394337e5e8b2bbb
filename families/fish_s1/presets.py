"""The checkpoints that `make-checkpoint` can make: S1-mini's shape, small ones, the demo voice."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from families.fish_s1 import demo

# Shape of OpenAudio S1-mini, as printed when the real one is loaded: 860,169,216 parameters.
_S1_MINI: dict[str, Any] = {
    "dim": 1024,
    "n_layer": 28,
    "n_head": 16,
    "n_local_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocab_size": 155776,
    "codebook_size": 4096,
    "num_codebooks": 10,
    "max_seq_len": 8192,
    "rope_base": 1e6,
    "norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_qk_norm": True,
    "scale_codebook_embeddings": True,
    "initializer_range": 0.03125,
    "n_fast_layer": 4,
    "fast_dim": 1024,
    "fast_n_head": 16,
    "fast_n_local_heads": 8,
    "fast_head_dim": 64,
    "fast_intermediate_size": 3072,
    "fast_attention_qkv_bias": False,
    "fast_attention_qk_norm": False,
    "fast_attention_o_bias": False,
}
# A small model of the same kind: 280 text, 15 + 1 special and 64 semantic tokens, and, as in
# S1-mini, two ids more than there are tokens.
_TINY: dict[str, Any] = _S1_MINI | {
    "dim": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_local_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 362,
    "codebook_size": 64,
    "max_seq_len": 4096,
    "n_fast_layer": 2,
    "fast_dim": 64,
    "fast_n_head": 4,
    "fast_n_local_heads": 2,
    "fast_head_dim": 16,
    "fast_intermediate_size": 128,
}
_TINY_TRANSFORMER = {
    "window_size": 16,
    "input_dim": 64,
    "config": {
        "block_size": 2048,  # frames: 95 s
        "n_layer": 2,
        "n_head": 2,
        "head_dim": 32,
        "dim": 64,
        "intermediate_size": 128,
    },
}
TINY_CODEC: dict[str, Any] = {
    "encoder_dim": 4,
    "decoder_dim": 32,
    "encoder_transformer_layers": [0, 0, 0, 2],
    "decoder_transformer_layers": [0, 0, 0, 0],  # upstream builds and drops them
    "transformer_general_config": {"block_size": 8192},  # 4 for each frame
    "quantizer": {
        "input_dim": 64,
        "codebook_size": 64,
        "semantic_codebook_size": 64,
        "pre_module": _TINY_TRANSFORMER,
        "post_module": _TINY_TRANSFORMER,
    },
}


@dataclass(frozen=True)
class Preset:
    """One kind of checkpoint.

    Attributes:
        llama: The fields of upstream's `DualARModelArgs`.
        codec: Where the codec differs from upstream's configuration.
        num_text_tokens: Number of text tokens.
        num_speakers: Number of tokens `<|speaker:N|>`; without them upstream spells the marker out.
        dtype: Dtype of the transformers' weights.
        weights: Folder of the `model.pth` and `codec.pth` to expand; None: random weights.
        speech: What `families.speech` reads; None: no such file.
    """

    llama: dict[str, Any]
    codec: dict[str, Any] = field(default_factory=lambda: TINY_CODEC)
    num_text_tokens: int = 280
    num_speakers: int = 1
    dtype: torch.dtype = torch.float32
    weights: Path | None = None
    speech: dict[str, Any] | None = None


PRESETS = {
    # Token ids as in S1-mini: <|im_end|> 151647, semantic 151678 to 155773.
    "s1mini": Preset(_S1_MINI, {}, 151643, 20, torch.bfloat16),
    "tiny": Preset(_TINY),
    "tiny-mha": Preset(_TINY | {"n_local_heads": 4, "fast_n_local_heads": 4}),
    "tiny-fastdim": Preset(_TINY | {"fast_dim": 32}),
    "tiny-noqknorm": Preset(_TINY | {"attention_qk_norm": False}),
    # As Fish-Speech 1.5: 8 codebooks, whose sum is not scaled, and no speaker token.
    "tiny-8books": Preset(
        _TINY | {"num_codebooks": 8, "scale_codebook_embeddings": False},
        TINY_CODEC | {"quantizer": TINY_CODEC["quantizer"] | {"n_codebooks": 7}},
        num_speakers=0,
    ),
    "tiny-tied": Preset(_TINY | {"tie_word_embeddings": True}),
    "demo": Preset(
        demo.LLAMA, demo.CODEC, demo.TEXT_TOKENS, weights=demo.WEIGHTS, speech=demo.SPEECH
    ),
}
