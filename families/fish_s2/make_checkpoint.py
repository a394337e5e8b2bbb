"""Makes checkpoints in S2's format, for tests and load tests.

But for the demo voice they speak noise, and end. Random weights are drawn and written tensor by
tensor: at S2-Pro's size no more than the largest of them, the embedding, is in memory at a time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor

from families.fish_s1.make_checkpoint import (
    Begin,
    expand_codec,
    progress,
    text_tokens,
    write_codec_config,
    write_folder,
    write_random_codec,
)
from families.fish_s1.random_llama import STEERED, random_tensor, steer
from families.fish_s1.weights import read_llama
from families.fish_s2.checkpoint import empty_model, load_checkpoint
from families.fish_s2.presets import PRESETS, Preset
from families.fish_s2.reference import S2Transformer
from families.fish_s2.safetensors import INDEX, Writer
from families.fish_s2.tokenizer import FILE_NAME, PATTERN, byte_alphabet
from families.fish_s2.weights import published
from families.registry import CheckpointError
from families.speech import FILE_NAME as SPEECH

_DTYPE = torch.bfloat16
# Added tokens in the order of S2-Pro's ids, from 151643 on: Qwen3's, then Fish Audio's own. Source:
# the published added_tokens of Qwen3 and of S2-Pro.
_QWEN = """
<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|>
<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|>
<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|>
<|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> <think> </think>
"""
_OWN = """
<|pad|> <|phoneme_start|> <|phoneme_end|> <|text|> <|voice|> <|interleave|> <|audio_start|>
<|audio_end|> <|audio_pad|>
"""


def make_checkpoint(
    name: str,
    out: Path,
    seed: int = 0,
    force: bool = False,
    endless: bool = False,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write a checkpoint folder; arguments and errors are those of S1's `make_checkpoint`.

    Of all presets only the demo voice has trained weights, whose `model.pth` can be in another
    folder.
    """
    if name not in PRESETS:
        raise CheckpointError(f"make-checkpoint: got {name!r}, expected {', '.join(PRESETS)}")
    preset = PRESETS[name]
    if weights is not None and preset.weights is None:
        raise CheckpointError(f"make-checkpoint: {name} is random, expected no trained weights")
    weights = weights or preset.weights
    if weights is not None and not (weights / "model.pth").is_file():
        raise CheckpointError(
            f"make-checkpoint: {weights} holds no trained weights. Train them: "
            "python -m training s2"
        )

    def write(folder: Path) -> None:
        generator = torch.Generator(device).manual_seed(seed)
        codec = write_description(preset, folder)
        with progress() as begin:
            model = empty_model(folder)
            if weights is not None:
                trained = read_llama(weights / "model.pth")
                in_order = (trained[name] for name, _ in model.named_parameters())
                _write_weights(model, in_order, folder, preset.shards, begin)
                expand_codec(preset.codec_weights, folder)
            else:
                drawn = _drawn(model, generator, endless)
                _write_weights(model, drawn, folder, preset.shards, begin)
                write_random_codec(codec, folder, generator, begin)

    write_folder(name, out, force, load_checkpoint, write)


def write_description(preset: Preset, folder: Path) -> DictConfig | ListConfig:
    """Write all files of a checkpoint but the weights; returns the codec's configuration."""
    ids = _write_tokenizer(preset, folder)
    _write_config(preset, ids, folder)
    if preset.speech:
        (folder / SPEECH).write_text(json.dumps(preset.speech) + "\n", "utf-8")
    return write_codec_config(preset.codec, folder)


def _write_config(preset: Preset, ids: dict[str, int], folder: Path) -> None:
    codes = preset.audio["vocab_size"]
    vocabulary = {"vocab_size": preset.num_text_tokens + len(ids) + preset.spare}
    config = {
        "architectures": ["FishQwen3OmniForCausalLM"],
        "model_type": "fish_qwen3_omni",
        "dtype": "bfloat16",
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|pad|>"],
        "audio_pad_token_id": ids["<|audio_pad|>"],
        "semantic_start_token_id": ids["<|semantic:0|>"],
        "semantic_end_token_id": ids[f"<|semantic:{codes - 1}|>"],
        "text_config": preset.text | vocabulary,
        "audio_decoder_config": preset.audio,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _write_tokenizer(preset: Preset, folder: Path) -> dict[str, int]:
    """Write `tokenizer.json`; the ids of the added tokens."""
    letter_of = {byte: letter for letter, byte in byte_alphabet().items()}
    count = preset.num_text_tokens
    tokens = ["".join(letter_of[byte] for byte in token) for token in text_tokens(count)]
    semantic = [f"<|semantic:{i}|>" for i in range(preset.audio["vocab_size"])]
    ids = {token: count + i for i, token in enumerate((*_QWEN.split(), *_OWN.split(), *semantic))}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated",
             "invert": False}  # fmt: skip
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    values: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": token, **flags, "special": "|" in token}
            for token, i in ids.items()
        ],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "vocab": {token: rank for rank, token in enumerate(tokens)},
            "merges": [[token[:-1], token[-1]] for token in tokens if len(token) > 1],
        },
    }
    text = json.dumps(values, ensure_ascii=False) + "\n"
    (folder / FILE_NAME).write_text(text, "utf-8")
    return ids


def _write_weights(
    model: S2Transformer, weights: Iterator[Tensor], folder: Path, shards: int, begin: Begin
) -> None:
    """Write the shards and their index, each tensor as soon as there is one.

    Args:
        model: On the meta device.
        weights: In the order of the model's parameters.
        folder: The checkpoint's.
        shards: Number of files.
        begin: Starts a bar.
    """
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    step = begin("transformers", len(shapes))
    places = _places(shapes, shards)
    for shard in dict.fromkeys(places.values()):
        here = {published(n): shape for n, shape in shapes.items() if places[n] == shard}
        writer = Writer(folder / shard, here, _DTYPE)
        for name in here:
            writer.add(name, next(weights))
            step()
        writer.close()
    size = sum(p.numel() for p in model.parameters()) * _DTYPE.itemsize
    index = {
        "metadata": {"total_size": size},
        "weight_map": {published(name): shard for name, shard in places.items()},
    }
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", "utf-8")
    step()


def _places(shapes: dict[str, tuple[int, ...]], shards: int) -> dict[str, str]:
    """The file of each tensor: files of about equal size, in the tensors' order."""
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    total, so_far, places = sum(sizes), 0, {}
    for name, size in zip(shapes, sizes, strict=True):
        number = 1 + shards * so_far // total
        places[name] = f"model-{number:05d}-of-{shards:05d}.safetensors"
        so_far += size
    return places


def _drawn(model: S2Transformer, generator: torch.Generator, endless: bool) -> Iterator[Tensor]:
    """The weights in the order of the model's parameters."""
    config: Any = model.config
    parameters = dict(model.named_parameters())
    with generator.device:
        steered = {
            name: random_tensor(name, parameters[name], config, generator)
            for name in STEERED
            if name in parameters
        }
        steer(steered, model, generator, endless)
    for name, parameter in parameters.items():
        if name in steered:
            yield steered.pop(name)
        else:
            with generator.device:
                tensor = random_tensor(name, parameter, config, generator)
            yield tensor
