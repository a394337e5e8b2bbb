"""Makes checkpoints in the genuine format, for tests, demos and benchmarks.

Most have random weights. They speak noise, but the genuine loaders accept them, their codes are
valid and vary, the speech ends, and the audio is audible. `demo` was trained: its weights are kept
in few bits and are expanded here.
"""

import base64
import itertools
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from families.fish_s1.checkpoint import load_checkpoint
from families.fish_s1.codec import CODEC_CONFIG
from families.fish_s1.codec_config import build_codec, packaged_config
from families.fish_s1.presets import PRESETS, Preset
from families.fish_s1.random_codec import random_codec
from families.fish_s1.random_llama import random_llama
from families.fish_s1.upstream import (
    ALL_SPECIAL_TOKENS,
    DualARModelArgs,
    DualARTransformer,
    FishTokenizer,
    names_and_shapes,
)
from families.fish_s1.weights import read_codec, read_llama
from families.registry import Checkpoint, CheckpointError
from families.speech import FILE_NAME as SPEECH

# Starts a bar: what is done, and its steps -> what to call after each.
Begin = Callable[[str, int], Callable[[], None]]


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
        endless: Only `max_new_tokens` ends the speech, for workloads of a known length.
        weights: Folder of trained weights to take instead of the preset's.
        device: Where random numbers are drawn; a GPU is faster, and draws others.

    Raises:
        CheckpointError: If the name is unknown or the folder is not empty, or if trained weights
            are missing or of another shape.
    """
    preset = _checked_preset(name, weights)
    write_folder(
        name,
        out,
        force,
        load_checkpoint,
        lambda folder: _write(preset, folder, seed, endless, device),
    )


def write_folder(
    name: str,
    out: Path,
    force: bool,
    load: Callable[[Path], Checkpoint],
    write: Callable[[Path], None],
) -> None:
    """Make a checkpoint's folder: all of it, or nothing.

    Args:
        name: Of the preset.
        out: The folder to make.
        force: Replace a folder that holds something.
        load: The family's `load_checkpoint`, which checks what was written.
        write: Writes all files into a folder.

    Raises:
        CheckpointError: If the folder is not empty.
    """
    if out.exists() and not force and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"make-checkpoint: {out} is not empty. Replace it with --force")
    started = time.monotonic()
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.absolute().parent))
    try:
        write(unfinished)
        checkpoint_id = load(unfinished).checkpoint_id
        if out.is_dir():
            shutil.rmtree(out)
        unfinished.chmod(0o755)  # mkdtemp's is 0700
        unfinished.rename(out)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    megabytes = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    seconds = time.monotonic() - started
    print(f"{out}: {name}, id {checkpoint_id}, {megabytes:.1f} MB in {seconds:.1f} s")


def _checked_preset(name: str, weights: Path | None) -> Preset:
    """The preset with its weights."""
    if name not in PRESETS:
        raise CheckpointError(f"make-checkpoint: got {name!r}, expected {', '.join(PRESETS)}")
    preset = PRESETS[name] if weights is None else replace(PRESETS[name], weights=weights)
    if preset.weights and not (preset.weights / "model.pth").is_file():
        raise CheckpointError(
            f"make-checkpoint: {preset.weights} holds no trained weights. Train them: make train"
        )
    return preset


def _write(preset: Preset, folder: Path, seed: int, endless: bool, device: str) -> None:
    config = DualARModelArgs(**preset.llama)
    (folder / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n", "utf-8")
    write_tokenizer(preset, folder)
    codec_config = write_codec_config(preset.codec, folder)
    if preset.speech:
        (folder / SPEECH).write_text(json.dumps(preset.speech) + "\n", "utf-8")
    if preset.weights:
        _expand(preset.weights, folder)
    else:
        _write_random(preset, config, codec_config, folder, seed, endless, device)


def write_codec_config(changes: dict[str, Any], folder: Path) -> DictConfig | ListConfig:
    """Write the codec's configuration, if it is not upstream's, and return it."""
    config = OmegaConf.merge(packaged_config(), changes)
    if changes:
        OmegaConf.save(config, folder / CODEC_CONFIG, resolve=True)
    return config


def _expand(weights: Path, folder: Path) -> None:
    """Expand packed weights to single precision."""
    tensors = {name: tensor.float() for name, tensor in read_llama(weights / "model.pth").items()}
    torch.save(tensors, folder / "model.pth")
    expand_codec(weights / "codec.pth", folder)


def expand_codec(weights: Path, folder: Path) -> None:
    """Write `codec.pth` from packed weights, in single precision, which the codec needs."""
    tensors = {name: tensor.float() for name, tensor in read_codec(weights).items()}
    torch.save(tensors, folder / "codec.pth")


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
    with names_and_shapes():
        llama = DualARTransformer(
            config,  # pyright: ignore[reportArgumentType]
            FishTokenizer.from_pretrained(str(folder)),
        )
    with progress() as begin:
        step = begin("transformers", len(list(llama.parameters())))
        with torch.device(device):
            weights = random_llama(llama, generator, step, endless)
        weights = {name: tensor.to("cpu", preset.dtype) for name, tensor in weights.items()}
        torch.save(weights, folder / "model.pth")
        step()
        del weights
        write_random_codec(codec_config, folder, generator, begin)


@contextmanager
def progress() -> Iterator[Begin]:
    """Show bars on stderr, one for each call of what is yielded."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bars:

        def begin(what: str, total: int) -> Callable[[], None]:
            task = bars.add_task(what, total=total + 1)  # the last step is writing the file
            return lambda: bars.advance(task)

        yield begin


def write_random_codec(
    config: DictConfig | ListConfig, folder: Path, generator: torch.Generator, begin: Begin
) -> None:
    """Write `codec.pth` of random weights, drawn on the generator's device."""
    codec = build_codec(config)
    step = begin("codec", len(list(codec.parameters())))
    with generator.device:
        weights = random_codec(codec, generator, step)
    torch.save({name: tensor.cpu() for name, tensor in weights.items()}, folder / "codec.pth")
    step()


def write_tokenizer(preset: Preset, folder: Path) -> None:
    """Write `tokenizer.tiktoken` and `special_tokens.json`."""
    count = preset.num_text_tokens
    lines = [
        f"{base64.b64encode(token).decode()} {rank}"
        for rank, token in enumerate(text_tokens(count))
    ]
    (folder / "tokenizer.tiktoken").write_text("\n".join(lines) + "\n", "ascii")
    tokens = [token for token in ALL_SPECIAL_TOKENS if not token.startswith("<|semantic:")]
    tokens += [f"<|speaker:{i}|>" for i in range(preset.num_speakers)]
    tokens += [f"<|semantic:{i}|>" for i in range(preset.llama["codebook_size"])]
    ids = {token: count + i for i, token in enumerate(tokens)}
    (folder / "special_tokens.json").write_text(json.dumps(ids, indent=2) + "\n", "utf-8")


def text_tokens(count: int) -> list[bytes]:
    """All single bytes, then runs of 2, 3, ... letters, so that any text has tokens."""
    letters = b" etaoinshrdlucmfwypvbgkjqxz" + bytes(range(65, 91))
    runs = (itertools.product(letters, repeat=length) for length in itertools.count(2))
    merges = map(bytes, itertools.chain.from_iterable(runs))
    return [bytes([byte]) for byte in range(256)] + list(itertools.islice(merges, count - 256))
