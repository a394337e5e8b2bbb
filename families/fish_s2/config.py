"""Reads the nested `config.json` into the shape of fish-speech 0.1.0's classes.

What is ignored here is what upstream's main ignores at inference; any other key that says
something is refused, because the model might depend on it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from families.fish_s1.upstream import DualARModelArgs
from families.fish_s1.weights import listed
from families.registry import CheckpointError

FILE_NAME = "config.json"
MODEL_TYPE = "fish_qwen3_omni"
_TAKE = "Take the config.json that came with the weights"
_NEEDED = ("dim", "n_layer", "n_head", "intermediate_size", "vocab_size")
_FLAGS = ("attention_qkv_bias", "attention_o_bias", "attention_qk_norm")
_BOTH = (*_NEEDED, *_FLAGS, "n_local_heads", "head_dim", "rope_base", "norm_eps", "max_seq_len",
         "tie_word_embeddings", "use_moe", "model_type")  # fmt: skip
# What upstream reads for training, or not at all.
_IGNORED = {
    "architectures", "audio_hidden_dim", "audio_pad_token_id", "bos_token_id", "dropout", "dtype",
    "eos_token_id", "initializer_range", "moe_intermediate_size", "norm_topk_prob", "num_experts",
    "num_experts_per_tok", "pad_token_id", "router_gamma", "torch_dtype", "transformers_version",
    "use_aux_loss_free", "use_cache", "use_gradient_checkpointing", "_name_or_path",
}  # fmt: skip
# What transformers may write into the configuration of any model, with no effect on this one.
_OF_TRANSFORMERS = {
    "_attn_implementation_autoset", "add_cross_attention", "auto_map", "chunk_size_feed_forward",
    "decoder_start_token_id", "finetuning_task", "id2label", "is_decoder", "is_encoder_decoder",
    "label2id", "output_attentions", "output_hidden_states", "prefix", "problem_type",
    "return_dict", "sep_token_id", "task_specific_params", "tie_encoder_decoder",
    "tokenizer_class", "use_return_dict",
}  # fmt: skip
_TOP = {"model_type", "text_config", "audio_decoder_config", "semantic_start_token_id",
        "semantic_end_token_id"}  # fmt: skip
_DEFAULTS = {"rope_base": 1e4, "norm_eps": 1e-5, "max_seq_len": 2048, "tie_word_embeddings": True,
             "use_moe": False, **dict.fromkeys(_FLAGS, False)}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """Attributes:
    llama: Shape of both transformers.
    semantic: First and last semantic token that the file states; None where it does not.
    """

    llama: DualARModelArgs
    semantic: tuple[int | None, int | None]


def config_from(values: Any) -> Config:
    """Check the values of the file.

    Raises:
        CheckpointError: Names the key, what it is and what was expected.
    """
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind != MODEL_TYPE:
        raise CheckpointError(f"{FILE_NAME}: model_type {kind!r}, expected {MODEL_TYPE}. {_TAKE}")
    fast_only = "num_codebooks", "text_dim"
    _refuse_unknown(values, "", _TOP)
    for part, known in (("text_config", _BOTH), ("audio_decoder_config", (*_BOTH, *fast_only))):
        if not isinstance(values.get(part), dict):
            raise CheckpointError(
                f"{FILE_NAME}: {part} is {values.get(part)!r}, expected an object. {_TAKE}"
            )
        _refuse_unknown(values[part], f"{part}.", known)
    slow = _Part(values["text_config"], "text_config", _DEFAULTS)
    inherited = {name: slow[name] for name in _BOTH if name != "vocab_size" and slow.has(name)}
    fast = _Part(values["audio_decoder_config"], "audio_decoder_config", inherited)
    _refuse_unknown_parts(slow, fast)
    stated = (values.get("semantic_start_token_id"), values.get("semantic_end_token_id"))
    return Config(_shape(slow, fast), stated)


class _Part:
    """One transformer's values, with what an absent one stands for."""

    def __init__(self, given: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> None:
        self._given, self._name, self._defaults = given, name, defaults

    def has(self, key: str) -> bool:
        return self._given.get(key) is not None or key in self._defaults

    def __getitem__(self, key: str) -> Any:
        value = self._given.get(key)
        return self._defaults.get(key) if value is None else value

    def count(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self[key] if self.has(key) else default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fault(key, value, "a whole number above 0")
        return value

    def number(self, key: str) -> float:
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise self.fault(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        if not isinstance(value := self[key], bool):
            raise self.fault(key, value, "true or false")
        return value

    def fault(self, key: str, value: Any, expected: str) -> CheckpointError:
        return CheckpointError(
            f"{FILE_NAME}: {self._name}.{key} is {value!r}, expected {expected}. {_TAKE}"
        )


def _refuse_unknown(values: Mapping[str, Any], where: str, known: Any) -> None:
    said = {key for key, value in values.items() if value is not None}
    if unknown := sorted(said - set(known) - _IGNORED - _OF_TRANSFORMERS):
        raise CheckpointError(
            f"{FILE_NAME}: {len(unknown)} unknown keys: {listed(where + key for key in unknown)}. "
            "Remove one only if the model does not depend on it"
        )


def _refuse_unknown_parts(slow: _Part, fast: _Part) -> None:
    """Refuse kinds of model that upstream's main does not have, or that nobody has seen."""
    for part in (slow, fast):
        if part.flag("use_moe"):
            raise part.fault("use_moe", True, "false: experts are not supported")
    if not slow.flag("tie_word_embeddings"):
        raise slow.fault(
            "tie_word_embeddings", False, "true: no S2 checkpoint with a text head is known"
        )
    dim = slow.count("dim")
    if fast.has("text_dim") and fast["text_dim"] != dim:
        raise fast.fault("text_dim", fast["text_dim"], f"text_config.dim, {dim}")


def _shape(slow: _Part, fast: _Part) -> DualARModelArgs:
    heads, local, width = _heads(slow)
    fast_heads, fast_local, fast_width = _heads(fast)
    return DualARModelArgs(
        vocab_size=slow.count("vocab_size"),
        n_layer=slow.count("n_layer"),
        n_head=heads,
        n_local_heads=local,
        head_dim=width,
        dim=slow.count("dim"),
        intermediate_size=slow.count("intermediate_size"),
        rope_base=slow.number("rope_base"),  # upstream takes it, and the next, for both
        norm_eps=slow.number("norm_eps"),
        max_seq_len=slow.count("max_seq_len"),
        tie_word_embeddings=True,
        **{name: slow.flag(name) for name in _FLAGS},  # pyright: ignore[reportArgumentType]
        codebook_size=fast.count("vocab_size"),
        num_codebooks=fast.count("num_codebooks"),
        scale_codebook_embeddings=True,  # upstream sets it whatever the file says
        n_fast_layer=fast.count("n_layer"),
        fast_dim=fast.count("dim"),
        fast_n_head=fast_heads,
        fast_n_local_heads=fast_local,
        fast_head_dim=fast_width,
        fast_intermediate_size=fast.count("intermediate_size"),
        **{f"fast_{name}": fast.flag(name) for name in _FLAGS},
    )


def _heads(part: _Part) -> tuple[int, int, int]:
    """Query heads, KV heads and their width."""
    heads = part.count("n_head")
    local = part.count("n_local_heads", heads)
    width = part.count("head_dim", part.count("dim") // heads)
    if heads % local:
        raise part.fault("n_local_heads", local, f"a divisor of n_head, {heads}")
    if width % 2:
        raise part.fault("head_dim", width, "an even number")
    return heads, local, width
