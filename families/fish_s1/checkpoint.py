"""Loads a Fish-Speech checkpoint folder, strictly, into the genuine upstream classes.

    checkpoint = load_checkpoint("checkpoints/openaudio-s1-mini")
    llama = load_llama(checkpoint, torch.bfloat16)
    codec = load_codec(checkpoint)

Upstream's own loaders are not used: `from_pretrained` changes the model when the *path* contains
"int8", ignores missing tensors, and first fills hundreds of megabytes of masks and random numbers.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from families.fish_s1.codec import CODEC_CONFIG, check_codec, fill_codec, load_codec
from families.fish_s1.upstream import (
    DualARModelArgs,
    DualARTransformer,
    FishTokenizer,
    names_and_shapes,
    precompute_freqs_cis,
)
from families.fish_s1.weights import check, listed, read_llama, reject_lfs_pointer
from families.registry import Checkpoint, CheckpointError

__all__ = ["Checkpoint", "fill_codec", "load_checkpoint", "load_codec", "load_llama"]

FILES = ("config.json", "model.pth", "codec.pth", "tokenizer.tiktoken", "special_tokens.json")
ANSWER_POSITIONS = 2048  # kept free after every prompt (upstream's `generate_long`)
Model = TypeVar("Model", bound=DualARTransformer)
_IM_END, _INTERLEAVE = "<|im_end|>", "<|interleave|>"


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Check every file of a folder.

    Raises:
        CheckpointError: Says what was found, what was expected and what to do.
    """
    path = Path(path)
    _require_files(path)
    config = _read_config(path)
    tokenizer = _read_tokenizer(path, config)
    check("model.pth", read_llama(path / "model.pth"), empty_llama(config, tokenizer))
    check_codec(path, config)
    return Checkpoint(path, config, tokenizer, content_hash(path, (*FILES, CODEC_CONFIG)))


def load_llama(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float32, max_seq_len: int | None = None
) -> DualARTransformer:
    """Load the two transformers, in eval mode, on the CPU.

    Args:
        checkpoint: What `load_checkpoint` returned.
        dtype: Of the weights and of the rotary tables, as in upstream's `init_model`.
        max_seq_len: Positions of the rotary table and the mask; None: the checkpoint's.

    Raises:
        CheckpointError: If the weights have changed since the check, or max_seq_len is unusable.
    """
    config = checkpoint.config
    if max_seq_len is not None:
        if max_seq_len < 8 or max_seq_len % 8:
            raise CheckpointError(f"max_seq_len: got {max_seq_len}, expected a multiple of 8")
        config = replace(config, max_seq_len=max_seq_len)
    model = empty_llama(config, checkpoint.tokenizer)
    weights = read_llama(checkpoint.path / "model.pth")
    check("model.pth", weights, model)
    return fill_llama(model, weights, config.max_seq_len).to(dtype)


def fill_llama(model: Model, weights: dict[str, torch.Tensor], mask_positions: int) -> Model:
    """Give an empty model its weights, and the tables it makes itself.

    Args:
        model: On the meta device.
        weights: As `check` has passed them.
        mask_positions: Of its causal mask, whose size is their square.
    """
    config: Any = model.config
    model.load_state_dict(weights, strict=False, assign=True)  # not the tables, made next
    base = config.rope_base
    model.freqs_cis = precompute_freqs_cis(config.max_seq_len, config.head_dim, base)
    model.fast_freqs_cis = precompute_freqs_cis(config.num_codebooks, config.fast_head_dim, base)
    model.causal_mask = torch.ones(mask_positions, mask_positions, dtype=torch.bool).tril()
    return model.requires_grad_(False).eval()


def stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """Dtype of the transformers' weights in the file; float32 if they have several."""
    weights = read_llama(checkpoint.path / "model.pth")
    types = {t.dtype for t in weights.values() if t.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32


def empty_llama(
    config: DualARModelArgs, tokenizer: Any, kind: type[Model] = DualARTransformer
) -> Model:
    """Upstream's model on the meta device, without memory or random numbers.

    Raises:
        CheckpointError: If there is no such model.
    """
    try:
        with names_and_shapes():
            return kind(config, tokenizer)  # pyright: ignore[reportArgumentType]
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"config.json: upstream cannot build this model ({error!r}). "
            "Take the config.json that came with the weights"
        ) from error


def _require_files(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder, expected one holding {', '.join(FILES)}")
    missing = [name for name in FILES if not (path / name).is_file()]
    if "model.pth" in missing and any(path.glob("*.safetensors")):
        raise CheckpointError(
            f"{path}: a Fish-Speech S2 checkpoint (*.safetensors) without its own config.json. "
            "Take the config.json that came with these files (model_type fish_qwen3_omni)"
        )
    firefly = next(path.glob("firefly-gan-vq*"), None)
    if "codec.pth" in missing and firefly:
        raise CheckpointError(
            f"{path}: a Fish-Speech 1.4 or 1.5 checkpoint ({firefly.name}), expected OpenAudio "
            "S1-mini's codec.pth. The older codec is gone from fish-speech 0.1.0"
        )
    if missing:
        raise CheckpointError(
            f"{path}: {', '.join(missing)} missing, expected {', '.join(FILES)}. "
            "Make a random one with: python -m export make-checkpoint tiny --out DIR"
        )


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises a `CheckpointError` if it is none."""
    reject_lfs_pointer(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path.name}: is not JSON ({error}). Download it again") from error


def _read_config(path: Path) -> DualARModelArgs:
    values = read_json(path / "config.json")
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind == "fish_qwen3_omni":
        raise CheckpointError(
            "config.json: model_type fish_qwen3_omni, a Fish-Speech S2 checkpoint, expected "
            "dual_ar (OpenAudio S1-mini): this needs a checkpoint of S1's family"
        )
    if kind == "naive":
        raise CheckpointError(
            "config.json: model_type naive, without a fast transformer, expected dual_ar"
        )
    if kind != "dual_ar":
        raise CheckpointError(f"config.json: model_type {kind!r}, expected dual_ar")
    known = {field.name for field in fields(DualARModelArgs)}
    if unknown := sorted(set(values) - known):
        raise CheckpointError(
            f"config.json: {len(unknown)} unknown keys: {listed(unknown)}. Expected only those of "
            "fish-speech 0.1.0; remove one only if the model does not depend on it"
        )
    try:
        config = DualARModelArgs(**values)
        check_extents(config)
    except (TypeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"config.json: unusable values ({error}). Take the one that came with model.pth"
        ) from error
    return config


def check_extents(config: DualARModelArgs) -> None:
    """Check the numbers that upstream checks only when it generates, or never."""
    length = config.max_seq_len
    if not isinstance(length, int) or length % 8 or length <= ANSWER_POSITIONS:
        raise CheckpointError(
            f"config.json: max_seq_len {length!r}, expected a multiple of 8 above "
            f"{ANSWER_POSITIONS}, which upstream keeps free for the answer"
        )
    heads = ((config.n_head, config.n_local_heads), (config.fast_n_head, config.fast_n_local_heads))
    if any(n_head % n_local for n_head, n_local in heads):  # pyright: ignore[reportOperatorIssue]
        raise CheckpointError(
            f"config.json: (n_head, n_local_heads) of slow and fast: {heads}, expected n_head to "
            "be a multiple of n_local_heads"
        )


def _read_tokenizer(path: Path, config: DualARModelArgs) -> FishTokenizer:
    special = read_json(path / "special_tokens.json")
    size = config.codebook_size
    required = [_IM_END, _INTERLEAVE, *(f"<|semantic:{i}|>" for i in range(size))]
    if not isinstance(special, dict | list):
        raise CheckpointError(
            f"special_tokens.json: got {type(special).__name__}, expected an object or a list"
        )
    if lacking := [token for token in required if token not in special]:
        raise CheckpointError(
            f"special_tokens.json: {len(lacking)} tokens missing: {listed(lacking)}. Expected "
            f"{_IM_END}, {_INTERLEAVE} and a semantic token for each of codebook_size {size}"
        )
    reject_lfs_pointer(path / "tokenizer.tiktoken")
    try:
        tokenizer = FishTokenizer.from_pretrained(str(path))
    except (ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"tokenizer.tiktoken: cannot be read ({error!r}), expected lines of a token in "
            "base64 and its rank. Download it again"
        ) from error
    begin, semantic = tokenizer.semantic_begin_id, tokenizer.semantic_id_to_token_id
    if any(semantic[i] != begin + i for i in range(size)):
        raise CheckpointError(
            "special_tokens.json: the semantic tokens are out of order, expected them in a row"
        )
    tokens = tokenizer.vocab_size + tokenizer.num_special_tokens
    if config.vocab_size < tokens:
        raise CheckpointError(
            f"config.json: vocab_size {config.vocab_size}, but the tokenizer has {tokens} tokens. "
            "Use the tokenizer that came with model.pth"
        )
    return tokenizer


def content_hash(path: Path, files: Iterable[str]) -> str:
    """A checkpoint's id, of those of its files that are there."""
    digest = hashlib.sha256()
    for name in files:
        if (path / name).is_file():
            with (path / name).open("rb") as file:
                digest.update(name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
