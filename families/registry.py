"""The checkpoint families: which one a folder is of, and what each of them offers.

A family is a folder `families/NAME`, whose modules are imported only when they are needed:
`NAME/family.py` holds a `Family` for the export, `NAME/prompt.py` a `PromptBuilder` that
fish_prompt runs without torch. To add one, add its folder, and its lines to FAMILIES and
PROMPT_FILES.
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.voice import Reference

# Name -> `model_type` in the config.json of its checkpoints.
FAMILIES = {"fish_s1": "dual_ar", "fish_s2": "fish_qwen3_omni"}

# Files of a checkpoint that the family's `PromptBuilder` reads.
PROMPT_FILES = {
    "fish_s1": ("tokenizer.tiktoken", "special_tokens.json"),
    "fish_s2": ("tokenizer.json",),
}


class CheckpointError(ValueError):
    """The checkpoint cannot be served; the message says which file, why, and what to do."""


class PromptBuilder(Protocol):
    """Builds the prompts of one checkpoint, from the files that the export put beside it."""

    facts: Facts

    def __init__(self, folder: Path) -> None: ...

    def build(self, text: str, references: list[Reference]) -> tuple[np.ndarray, int]:
        """The prompt, int32 (1 + codebooks, positions), and how many positions are the voice's.

        Raises:
            PromptError: If text or voice are unusable, or together too long.
        """
        ...

    def build_parts(
        self, text: str, references: list[Reference]
    ) -> tuple[np.ndarray, int, list[int]]:
        """The same with all that follows, part by part, and the positions of each part.

        Speech is generated behind each part, and the next part continues from it. The first part
        is what `build` returns.
        """
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose every file has been checked; its weights are not in memory yet.

    Attributes:
        path: The folder.
        config: Shape of the transformers, as upstream's own dataclass.
        tokenizer: What the model's class in fish-speech 0.1.0 takes as its tokenizer; holds
            `semantic_begin_id` and `semantic_end_id`.
        checkpoint_id: First 16 hex digits of the SHA-256 over the files' contents.
    """

    path: Path
    config: Any
    tokenizer: Any
    checkpoint_id: str


@dataclass(frozen=True)
class EngineLlama:
    """Upstream's language model as `engine.lm` computes it.

    Attributes:
        shape: An `engine.lm.shape.DualArShape`.
        tensors: The weights, under the names of `engine.lm.graphs`.
        token_ids: int64 tensor of the tokens that get logits, in the order of the logits.
    """

    shape: Any
    tensors: dict[str, Any]
    token_ids: Any


@dataclass(frozen=True)
class Family:
    """What a family offers. Modules, tensors and dtypes are torch's.

    Attributes:
        name: Its folder.
        load_checkpoint: Folder -> `Checkpoint`; raises a `CheckpointError`.
        load_llama: Checkpoint -> upstream's language model in eval mode: in float32, or, if it is
            large, mapped in the dtype of its file.
        load_codec: Checkpoint -> upstream's codec, float32, in eval mode.
        stored_dtype: Checkpoint -> dtype of the language model's weights in the file.
        engine_llama: Upstream's language model, and whether every token is to get a logit ->
            `EngineLlama`.
        language_facts: Checkpoint -> the fields of `Facts` that describe the language model and
            how it speaks.
        presets: Names that `make_checkpoint` knows.
        make_checkpoint: Writes a checkpoint that upstream's loaders accept; takes the arguments
            of `python -m export make-checkpoint`.
        has_full_vocabulary: Whether its upstream samples from all tokens.
    """

    name: str
    load_checkpoint: Callable[[Path], Checkpoint]
    load_llama: Callable[[Any], Any]
    load_codec: Callable[[Any], Any]
    stored_dtype: Callable[[Any], Any]
    engine_llama: Callable[[Any, bool], EngineLlama]
    language_facts: Callable[[Any], dict[str, Any]]
    presets: tuple[str, ...]
    make_checkpoint: Callable[..., None]
    has_full_vocabulary: bool = True


def prompt_builder(folder: Path) -> PromptBuilder:
    """The prompt builder of the family that a version folder's checkpoint.json names.

    Raises:
        FileNotFoundError: If a file is missing there.
        ValueError: If there is no such family.
    """
    name = Facts.load(folder).family
    if name not in FAMILIES:
        raise ValueError(
            f"{folder.parent.name}: the checkpoint's family is {name!r}, expected "
            f"{', '.join(FAMILIES)}. Re-export with: make export CHECKPOINT=DIR"
        )
    return importlib.import_module(f"families.{name}.prompt").PromptBuilder(folder)


def family_of(checkpoint: Path) -> Family:
    """The family of a checkpoint folder, by its config.json.

    A folder of no known family gets the first one, whose loader says what is wrong with it.
    """
    try:
        config = json.loads((checkpoint / "config.json").read_text("utf-8"))
        model_type = config.get("model_type")
    except (OSError, ValueError, AttributeError):
        model_type = None
    return _family(next((n for n, t in FAMILIES.items() if t == model_type), _first()))


def family_with_preset(preset: str) -> Family:
    """The family whose `make_checkpoint` knows a preset.

    Raises:
        CheckpointError: If none does; lists all presets.
    """
    families = [_family(name) for name in FAMILIES]
    for family in families:
        if preset in family.presets:
            return family
    known = ", ".join(name for family in families for name in family.presets)
    raise CheckpointError(f"make-checkpoint: got {preset!r}, expected {known}")


def _first() -> str:
    return next(iter(FAMILIES))


def _family(name: str) -> Family:
    return importlib.import_module(f"families.{name}.family").FAMILY
