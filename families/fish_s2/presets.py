"""The checkpoints that `make-checkpoint` can make: S2-Pro's shape, tiny ones, the demo voice."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from families.fish_s1 import demo
from families.fish_s1.presets import TINY_CODEC

# The demo voice in S2's format: its transformers, which `python -m training s2` trains. Their codec
# is S1's demo voice's.
WEIGHTS = demo.WEIGHTS.with_name("demo-s2")

# Shapes as ports of S2-Pro quote its config.json: 4,561,852,416 parameters.
_S2_PRO_LAYER = {
    "dim": 2560,
    "n_head": 32,
    "n_local_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728,
}
_TINY_LAYER = {
    "dim": 64,
    "n_head": 8,
    "n_local_heads": 2,
    "head_dim": 16,  # as in S2-Pro, heads are together wider than the model
    "intermediate_size": 96,
}
_ITS_WIDTHS = ("n_head", "n_local_heads", "head_dim", "intermediate_size")
_DEMO_LAYER = {name: demo.LLAMA[name] for name in ("dim", "rope_base", *_ITS_WIDTHS)}
_DEMO_FAST_LAYER = {name: demo.LLAMA[f"fast_{name}"] for name in ("dim", *_ITS_WIDTHS)}
_SAME = {"rope_base": 1e6, "norm_eps": 1e-6, "attention_qkv_bias": False, "attention_o_bias": False,
         "use_moe": False}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """One kind of checkpoint.

    Attributes:
        text, audio: What both transformers' parts of config.json say of their shape.
        num_text_tokens: Number of text tokens.
        spare: Rows of the embedding beyond the tokens, as S2-Pro has two.
        codec: Where the codec differs from upstream's configuration.
        shards: Number of files of weights.
        weights: Folder of the `model.pth` to expand; the codec's weights are `codec_weights`. None:
            random weights.
        speech: What `families.speech` reads; None: no such file.
    """

    text: dict[str, Any]
    audio: dict[str, Any]
    num_text_tokens: int = 280
    spare: int = 2
    codec: dict[str, Any] = field(default_factory=lambda: TINY_CODEC)
    shards: int = 2
    weights: Path | None = None
    codec_weights: Path = demo.WEIGHTS / "codec.pth"
    speech: dict[str, Any] | None = None


def _preset(
    layer: dict[str, Any],
    layers: tuple[int, int],
    codes: int,
    length: int,
    fast_layer: dict[str, Any] | None = None,
    **more: Any,
) -> Preset:
    text = {"model_type": "fish_qwen3", "n_layer": layers[0], "max_seq_len": length,
            "attention_qk_norm": True, "tie_word_embeddings": True}  # fmt: skip
    audio = {"model_type": "fish_qwen3_audio_decoder", "n_layer": layers[1], "max_seq_len": 11,
             "attention_qk_norm": False, "tie_word_embeddings": False, "vocab_size": codes,
             "num_codebooks": 10, "text_dim": layer["dim"]}  # fmt: skip
    return Preset(_SAME | layer | text, _SAME | layer | (fast_layer or {}) | audio, **more)


_DEMO = _preset(
    _DEMO_LAYER, (demo.LLAMA["n_layer"], demo.LLAMA["n_fast_layer"]), demo.CODEBOOK_SIZE,
    demo.LLAMA["max_seq_len"], _DEMO_FAST_LAYER, num_text_tokens=demo.TEXT_TOKENS,
    codec=demo.CODEC, weights=WEIGHTS, speech=demo.SPEECH,
)  # fmt: skip
_TRUE_TOKENS: dict[str, Any] = {"num_text_tokens": 151643, "codec": {}}
PRESETS = {
    "s2-demo": _DEMO,
    "s2-tiny": _preset(_TINY_LAYER, (2, 2), 64, 4096),
    # Token ids as in S2-Pro: <|im_end|> 151645, semantic 151678 to 155773.
    "s2-pro": _preset(_S2_PRO_LAYER, (36, 4), 4096, 32768, **_TRUE_TOKENS),
    # Four of its 36 layers: for trials of memory and speed at the true widths.
    "s2-pro-4layers": _preset(_S2_PRO_LAYER, (4, 4), 4096, 32768, **_TRUE_TOKENS),
}
