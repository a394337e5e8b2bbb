"""Dimensions of the demo voice: of its transformers and of its codec.

Small enough for two cores to train and to serve. `training/` trains it; the weights that it ends
with are kept in `assets/demo`, in half precision and 8 bits.
"""

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "demo"

CODEBOOK_SIZE = 256  # of all ten
TEXT_TOKENS = 256  # single bytes: for a few hundred words, longer tokens gain little
_SPECIAL_TOKENS = 15 + 1  # upstream's own, and <|speaker:0|>

LLAMA: dict[str, Any] = {
    "dim": 256,
    "n_layer": 5,
    "n_head": 4,
    "n_local_heads": 4,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": TEXT_TOKENS + _SPECIAL_TOKENS + CODEBOOK_SIZE,
    "codebook_size": CODEBOOK_SIZE,
    "num_codebooks": 10,
    "max_seq_len": 4096,
    "rope_base": 1e4,
    "norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_qk_norm": True,
    # Upstream scales in `forward_generate` but not in `forward`, which trains: both must agree.
    "scale_codebook_embeddings": False,
    "initializer_range": 0.03,
    "use_gradient_checkpointing": False,
    "n_fast_layer": 2,
    "fast_dim": 128,
    "fast_n_head": 2,
    "fast_n_local_heads": 2,
    "fast_head_dim": 64,
    "fast_intermediate_size": 320,
    "fast_attention_qkv_bias": False,
    "fast_attention_qk_norm": False,
    "fast_attention_o_bias": False,
}

# What it was trained on: single sentences, of which a greeting has two ("Good morning, Bob. Did you
# sleep well?", 42 letters at most), at 8.4 to 15.9 letters a second.
SPEECH: dict[str, Any] = {"letters_per_request": 42, "letters_per_s": [7.0, 19.0]}

_LATENT = 8 * 2**4  # encoder_dim, doubled by each of four strides
_TRANSFORMER = {
    "window_size": 8,  # frames: no more than a training segment holds
    "input_dim": _LATENT,
    "config": {
        "block_size": 2048,  # frames: 95 s
        "n_layer": 2,
        "n_head": 2,
        "head_dim": 64,
        "dim": _LATENT,
        "intermediate_size": 3 * _LATENT,
        "dropout_rate": 0.0,
        "attn_dropout_rate": 0.0,
    },
}


def _deeper(transformer: dict[str, Any], layers: int) -> dict[str, Any]:
    return {**transformer, "config": {**transformer["config"], "n_layer": layers}}


# What differs from upstream's configuration, which is S1-mini's.
CODEC: dict[str, Any] = {
    "encoder_dim": 8,
    "decoder_dim": 192,  # the convolutions cost 1 / 64 of the full size's
    "encoder_transformer_layers": [0, 0, 0, 0],
    "decoder_transformer_layers": [0, 0, 0, 0],  # upstream builds and drops them
    "transformer_general_config": {"block_size": 8192},  # 4 for each frame
    "quantizer": {
        "input_dim": _LATENT,
        "codebook_size": CODEBOOK_SIZE,
        "semantic_codebook_size": CODEBOOK_SIZE,
        "quantizer_dropout": 0.0,
        "pre_module": _deeper(_TRANSFORMER, 6),  # makes up for the encoder's few channels
        "post_module": _deeper(_TRANSFORMER, 4),
    },
}
