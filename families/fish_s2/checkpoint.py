"""Loads a Fish Audio S2 checkpoint folder, strictly, into fish-speech 0.1.0's classes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from families.fish_s1.checkpoint import (
    check_extents,
    content_hash,
    empty_llama,
    fill_llama,
    read_json,
)
from families.fish_s1.codec import CODEC_CONFIG, check_codec
from families.fish_s1.upstream import DualARModelArgs
from families.fish_s1.weights import check, reject_lfs_pointer
from families.fish_s2 import tokenizer as tokenizers
from families.fish_s2.config import FILE_NAME as CONFIG
from families.fish_s2.config import config_from
from families.fish_s2.reference import S2Transformer
from families.fish_s2.safetensors import INDEX, SINGLE
from families.fish_s2.tokenizer import IM_END, read_tokenizer
from families.fish_s2.weights import published, read_weights, weights_file
from families.registry import Checkpoint, CheckpointError

_MASK_POSITIONS = 4096  # of the reference model; a mask of S2-Pro's 32,768 would take 1 GB
_LARGE = 8_000_000_000  # bytes in float32; a larger model stays mapped, in the dtype of its file


@dataclass(frozen=True)
class Tokenizer:
    """What the model's class asks of its tokenizer.

    Attributes:
        vocab_size, num_special_tokens: Text tokens, and all others.
        semantic_begin_id, semantic_end_id: First and last semantic token.
        im_end_id: Token that ends the speech.
    """

    vocab_size: int
    num_special_tokens: int
    semantic_begin_id: int
    semantic_end_id: int
    im_end_id: int

    @cached_property
    def semantic_id_to_token_id(self) -> dict[int, int]:
        return {i: t for i, t in enumerate(range(self.semantic_begin_id, self.semantic_end_id + 1))}

    def get_token_id(self, token: str) -> int:
        """Only the end's; the class asks for no other."""
        return {IM_END: self.im_end_id}[token]


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Check every file of a folder.

    Raises:
        CheckpointError: Says what was found, what was expected and what to do.
    """
    path = Path(path)
    _require_files(path)
    model: Any = empty_model(path)
    config, tokenizer, file = model.config, model.tokenizer, weights_file(path)
    check(file, read_weights(path), model, str if file == "model.pth" else published)
    check_codec(path, config)
    shards = sorted(file.name for file in path.glob("*.safetensors"))
    files = (CONFIG, INDEX, *shards, "model.pth", "codec.pth", tokenizers.FILE_NAME, CODEC_CONFIG)
    return Checkpoint(path, config, tokenizer, content_hash(path, files))


def empty_model(path: Path) -> S2Transformer:
    """The model that config.json and tokenizer describe, on the meta device."""
    found = config_from(read_json(path / CONFIG))
    check_extents(found.llama)
    tokenizer = _read_tokenizer(path, found.llama, found.semantic)
    return empty_llama(found.llama, tokenizer, S2Transformer)


def load_llama(checkpoint: Checkpoint) -> S2Transformer:
    """Load the two transformers, in eval mode, on the CPU.

    Returns:
        In float32; a large model in the dtype of its file, its weights mapped into memory.
    """
    weights = read_weights(checkpoint.path)
    model = empty_llama(checkpoint.config, checkpoint.tokenizer, S2Transformer)
    fill_llama(model, weights, min(checkpoint.config.max_seq_len, _MASK_POSITIONS))
    is_large = 4 * sum(tensor.numel() for tensor in weights.values()) > _LARGE
    return model if is_large else model.float()


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Dtype of the transformers' weights in the files; float32 if they have several."""
    types = {tensor.dtype for tensor in read_weights(checkpoint.path).values()}
    return types.pop() if len(types) == 1 else torch.float32


def _require_files(path: Path) -> None:
    expected = f"{CONFIG}, {INDEX} with its shards, codec.pth, {tokenizers.FILE_NAME}"
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder, expected one holding {expected}")
    needed = (CONFIG, "codec.pth", tokenizers.FILE_NAME)
    missing = [name for name in needed if not (path / name).is_file()]
    if not weights_file(path):
        missing.append(f"{INDEX} (or {SINGLE})")
    if missing:
        raise CheckpointError(
            f"{path}: {', '.join(missing)} missing, expected {expected}. "
            "Make a random one with: python -m export make-checkpoint s2-tiny --out DIR"
        )


def _read_tokenizer(
    path: Path, config: DualARModelArgs, stated: tuple[int | None, int | None]
) -> Tokenizer:
    file = tokenizers.FILE_NAME
    reject_lfs_pointer(path / file)
    found = read_tokenizer(path)
    begin, count = found.semantic_begin, found.num_semantic
    if count != config.codebook_size:
        raise CheckpointError(
            f"{file}: {count} semantic tokens, but config.json has audio_decoder_config.vocab_size "
            f"{config.codebook_size}. Use the tokenizer that came with the weights"
        )
    for name, said, is_so in (
        ("semantic_start_token_id", stated[0], begin),
        ("semantic_end_token_id", stated[1], begin + count - 1),
    ):
        if said is not None and said != is_so:
            raise CheckpointError(
                f"config.json: {name} {said!r}, but in {file} it is {is_so}. "
                "Use the tokenizer that came with the weights"
            )
    if found.size > config.vocab_size:
        raise CheckpointError(
            f"config.json: vocab_size {config.vocab_size}, but {file} has ids up to "
            f"{found.size - 1}. Use the tokenizer that came with the weights"
        )
    end, im_end = begin + count - 1, found.special[IM_END]
    return Tokenizer(found.num_text, len(found.special), begin, end, im_end)
