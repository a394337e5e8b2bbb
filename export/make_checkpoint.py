"""Makes checkpoints in the genuine format, for tests, demos and benchmarks.

Most are of random weights. Nothing is learnt, so what they speak is noise; but the genuine loaders
accept them, the codes are valid and vary, the speech ends, and the audio is audible.
`demo` is the one that was trained: its weights are kept in few bits and expanded here.
"""

import base64
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from export import demo
from export.checkpoint import CODEC_CONFIG, load_checkpoint
from export.codec_config import build_codec, packaged_config
from export.random_codec import random_codec
from export.random_llama import random_llama
from export.upstream import ALL_SPECIAL_TOKENS, DualARModelArgs, DualARTransformer, FishTokenizer
from export.weights import CheckpointError, read_codec, read_llama

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
# The same in small. 280 pieces of text, 15 + 1 special and 64 semantic tokens, and, as in S1-mini,
# two ids more than there are tokens.
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
_TINY_CODEC: dict[str, Any] = {
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
        llama: Fields of upstream's `DualARModelArgs`.
        codec: What differs from upstream's codec configuration.
        num_text_tokens: Pieces of text in the tokenizer.
        num_speakers: Tokens `<|speaker:N|>`; without any, upstream spells the marker out.
        dtype: Of the transformers' weights.
        weights: Folder of `model.pth` and `codec.pth` to expand; None: random ones.
    """

    llama: dict[str, Any]
    codec: dict[str, Any] = field(default_factory=lambda: _TINY_CODEC)
    num_text_tokens: int = 280
    num_speakers: int = 1
    dtype: torch.dtype = torch.float32
    weights: Path | None = None


PRESETS = {
    # Ids as in S1-mini: <|im_end|> 151647, semantic 151678 to 155773.
    "s1mini": Preset(_S1_MINI, {}, 151643, 20, torch.bfloat16),
    "tiny": Preset(_TINY),
    "tiny-mha": Preset(_TINY | {"n_local_heads": 4, "fast_n_local_heads": 4}),
    "tiny-fastdim": Preset(_TINY | {"fast_dim": 32}),
    "tiny-noqknorm": Preset(_TINY | {"attention_qk_norm": False}),
    # Like Fish-Speech 1.5 in these: 8 codebooks, their sum not scaled, no speaker token.
    "tiny-8books": Preset(
        _TINY | {"num_codebooks": 8, "scale_codebook_embeddings": False},
        _TINY_CODEC | {"quantizer": _TINY_CODEC["quantizer"] | {"n_codebooks": 7}},
        num_speakers=0,
    ),
    "tiny-tied": Preset(_TINY | {"tie_word_embeddings": True}),
    "demo": Preset(demo.LLAMA, demo.CODEC, demo.TEXT_TOKENS, weights=demo.WEIGHTS),
}


def make_checkpoint(
    name: str,
    out: Path,
    seed: int = 0,
    force: bool = False,
    endless: bool = False,
    weights: Path | None = None,
    device: str = "cpu",
) -> None:
    """Write a checkpoint folder: all of it, or nothing.

    Args:
        name: One of `PRESETS`.
        out: The folder to make.
        seed: The same seed gives the same weights.
        force: Replace a folder that holds something.
        endless: Speech that only `max_new_tokens` ends: workloads of a known length.
        weights: Folder of trained ones, instead of the preset's own.
        device: Where random numbers are drawn; a GPU is faster, and draws others.

    Raises:
        CheckpointError: If the name is unknown or the folder is not empty, or if trained weights
            are missing or of another shape.
    """
    if name not in PRESETS:
        raise CheckpointError(f"make-checkpoint: got {name!r}, expected {', '.join(PRESETS)}")
    preset = PRESETS[name] if weights is None else replace(PRESETS[name], weights=weights)
    if preset.weights and not (preset.weights / "model.pth").is_file():
        raise CheckpointError(
            f"make-checkpoint: {preset.weights} holds no trained weights. Train them: make train"
        )
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"make-checkpoint: {out} is not empty. Replace it with --force")
    started = time.monotonic()
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        _write(preset, unfinished, seed, endless, device)
        checkpoint_id = load_checkpoint(unfinished).checkpoint_id
        if out.is_dir():
            shutil.rmtree(out)
        unfinished.chmod(0o755)  # mkdtemp's is 0700
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    megabytes = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    seconds = time.monotonic() - started
    print(f"{out}: {name}, id {checkpoint_id}, {megabytes:.1f} MB in {seconds:.1f} s")


def _write(preset: Preset, folder: Path, seed: int, endless: bool, device: str) -> None:
    config = DualARModelArgs(**preset.llama)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", "utf-8")
    write_tokenizer(preset, folder)
    codec_config = OmegaConf.merge(packaged_config(), preset.codec)
    if preset.codec:
        OmegaConf.save(codec_config, folder / CODEC_CONFIG, resolve=True)
    if preset.weights:
        _expand(preset.weights, folder)
    else:
        _write_random(preset, config, codec_config, folder, seed, endless, device)


def _expand(weights: Path, folder: Path) -> None:
    """-> the single precision that the codec needs and the transformers may have."""
    for file, read in (("model.pth", read_llama), ("codec.pth", read_codec)):
        tensors = {name: tensor.float() for name, tensor in read(weights / file).items()}
        torch.save(tensors, folder / file)


def _write_random(
    preset: Preset,
    config: DualARModelArgs,
    codec_config: DictConfig | ListConfig,
    folder: Path,
    seed: int,
    endless: bool,
    device: str,
) -> None:
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        llama = DualARTransformer(
            config,  # pyright: ignore[reportArgumentType]
            FishTokenizer.from_pretrained(str(folder)),
        )
    codec = build_codec(codec_config)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:

        def begin(what: str, total: int) -> Callable[[], None]:
            task = progress.add_task(what, total=total + 1)  # the last one: written
            return lambda: progress.advance(task)

        step = begin("transformers", len(list(llama.parameters())))
        with torch.device(device):
            weights = random_llama(llama, generator, step, endless)
        weights = {name: tensor.to("cpu", preset.dtype) for name, tensor in weights.items()}
        torch.save(weights, folder / "model.pth")
        step()
        del weights
        step = begin("codec", len(list(codec.parameters())))
        with torch.device(device):
            weights = random_codec(codec, generator, step)
        torch.save({name: tensor.cpu() for name, tensor in weights.items()}, folder / "codec.pth")
        step()


def write_tokenizer(preset: Preset, folder: Path) -> None:
    """`tokenizer.tiktoken` and `special_tokens.json`."""
    count = preset.num_text_tokens
    lines = [
        f"{base64.b64encode(token).decode()} {rank}"
        for rank, token in enumerate(_text_tokens(count))
    ]
    (folder / "tokenizer.tiktoken").write_text("\n".join(lines) + "\n", "ascii")
    tokens = [token for token in ALL_SPECIAL_TOKENS if not token.startswith("<|semantic:")]
    tokens += [f"<|speaker:{i}|>" for i in range(preset.num_speakers)]
    tokens += [f"<|semantic:{i}|>" for i in range(preset.llama["codebook_size"])]
    ids = {token: count + i for i, token in enumerate(tokens)}
    (folder / "special_tokens.json").write_text(json.dumps(ids, indent=2) + "\n", "utf-8")


def _text_tokens(count: int) -> list[bytes]:
    """All single bytes, then longer and longer runs of letters: any text can be written."""
    letters = b" etaoinshrdlucmfwypvbgkjqxz" + bytes(range(65, 91))
    runs = (itertools.product(letters, repeat=length) for length in itertools.count(2))
    merges = map(bytes, itertools.chain.from_iterable(runs))
    return [bytes([byte]) for byte in range(256)] + list(itertools.islice(merges, count - 256))
