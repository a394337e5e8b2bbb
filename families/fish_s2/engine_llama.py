"""The two transformers under the engine's names."""

from dataclasses import replace
from typing import Any

from families.fish_s1 import engine_llama as s1
from families.fish_s2.checkpoint import Checkpoint
from families.registry import EngineLlama

# Upstream's API has these temperature, top_p and top_k; its window of repetition-aware sampling is
# fixed. It takes a repetition_penalty and ignores it; here another than 1 is refused.
OPTION_DEFAULTS = {
    "temperature": 0.8,
    "top_p": 0.8,
    "repetition_penalty": 1.0,
    "top_k": 30,
    "ras_window": 10,
}
NOTICE = (
    "Built with Fish Audio. The weights are under the Fish Audio Research License: research and "
    "non-commercial use only; whoever passes them on, or a service built on them, shows this notice"
)


def language_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The fields of `Facts` that describe the language model and how it is sampled."""
    return s1.language_facts(checkpoint) | {
        "option_defaults": OPTION_DEFAULTS,
        "fixed_options": ("repetition_penalty",),
        "bfloat16_options": False,
        "is_dialogue": True,
        "notice": NOTICE,
    }


def engine_llama(genuine: Any, full_vocabulary: bool = False) -> EngineLlama:
    """Convert the reference model; its upstream samples from every residual code.

    Args:
        genuine: `S2Transformer`.
        full_vocabulary: Logits for all tokens; the export refuses it for this family.
    """
    converted = s1.engine_llama(genuine, full_vocabulary, num_codes=None)
    return replace(converted, shape=replace(converted.shape, norm_fast_input=True))
