"""The two transformers under the engine's names."""

from dataclasses import replace
from typing import Any

from families.fish_s1 import engine_llama as s1
from families.registry import EngineLlama


def engine_llama(genuine: Any, full_vocabulary: bool = False) -> EngineLlama:
    """Convert the reference model; its upstream samples from every residual code.

    Args:
        genuine: `S2Transformer`.
        full_vocabulary: Logits for all tokens; the export refuses it for this family.
    """
    converted = s1.engine_llama(genuine, full_vocabulary, num_codes=None)
    return replace(converted, shape=replace(converted.shape, norm_fast_input=True))
