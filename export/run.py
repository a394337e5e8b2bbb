"""A checkpoint folder -> a servable model repository: export, compare, then put in place."""

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.status import Status
from rich.table import Table

from engine.codec.decoder import DecoderGraph
from engine.codec.memory import keep_memory
from engine.codec.package import FILE_NAME, INT8_FILE_NAME, machine_fault
from engine.codec.quantizer import quantizers
from engine.codec.streaming import samples_per_frame
from ensemble.contract.facts import Facts, max_prompt_length
from export.codec import export_decoder, export_encoder
from export.lm import export_llama, num_semantic
from export.parity import Comparison
from families.fish_s1.checkpoint import Checkpoint, load_checkpoint, load_codec, load_llama

TEMPLATE = Path(__file__).resolve().parents[1] / "model_repository"
TOKENIZER_FILES = ("tokenizer.tiktoken", "special_tokens.json")


class ParityError(RuntimeError):
    """An artefact is not what upstream computes; nothing was put in place."""


@dataclass(frozen=True)
class Result:
    """What an export made.

    Attributes:
        comparisons: Every artefact against upstream.
        sizes: Bytes of each file, by its path in the repository.
        seconds: By stage.
    """

    comparisons: list[Comparison]
    sizes: dict[str, int]
    seconds: dict[str, float]


def export_checkpoint(
    checkpoint_folder: Path,
    repository: Path,
    full_vocabulary: bool,
    console: Console,
    compiled: bool = False,
    int8: bool = False,
) -> Result:
    """Export all stages and put them into a repository, or raise and leave it as it was.

    Args:
        checkpoint_folder: A Fish-Speech checkpoint.
        repository: Where the models lie or shall lie; if it is not the committed one, the
            committed configurations and Python models are copied there.
        full_vocabulary: See `export.lm.sampled_tokens`.
        console: For progress; results are for the caller to print.
        compiled: Also lay the codec out for this machine's CPU, if it has a C++ compiler.
        int8: Likewise the decoder in 8 bits, beside that, if that is faster here.

    Raises:
        CheckpointError: If the checkpoint is unusable.
        ParityError: With both numbers of every artefact that differs.
    """
    keep_memory()
    made = _kernels(compiled, int8, console)
    with console.status("checking the checkpoint") as status:
        checkpoint = load_checkpoint(checkpoint_folder)
        repository.mkdir(parents=True, exist_ok=True)
        # Beside the repository: the same file system, and no model to a running server.
        with tempfile.TemporaryDirectory(dir=repository.resolve().parent, prefix=".export-") as new:
            comparisons, seconds = _export_stages(
                checkpoint, full_vocabulary, Path(new), status, made
            )
            _require_parity(comparisons)
            status.update("putting the artefacts in place")
            if repository.resolve() != TEMPLATE:
                shutil.copytree(TEMPLATE, repository, dirs_exist_ok=True, ignore=_only_committed)
            sizes = _place(Path(new), repository)
    return Result(comparisons, sizes, seconds)


def _kernels(compiled: bool, int8: bool, console: Console) -> list[str]:
    """Which of those asked for can be made here; says why not."""
    if not (compiled or int8):
        return []
    if fault := machine_fault():
        console.print(f"export: the codec is not laid out for this CPU: {fault}")
        return []
    made = ["float"] if compiled else []
    if int8 and (fault := machine_fault(int8=True)):
        console.print(f"export: no decoder in int8: {fault}")
    elif int8:
        made.append("int8")
    return made


def _export_stages(
    checkpoint: Checkpoint, full_vocabulary: bool, new: Path, status: Status, made: list[str]
) -> tuple[list[Comparison], dict[str, float]]:
    """Write `MODEL/1/...` below a new folder; one stage's weights in memory at a time."""
    seconds: dict[str, float] = {}
    begin = time.perf_counter()
    report = status.update
    codec = load_codec(checkpoint)
    decoder = DecoderGraph(codec).eval()
    facts = facts_of(checkpoint, codec, decoder, full_vocabulary)
    comparisons = export_encoder(codec, facts, new / "fish_encoder" / "1", report, made)
    seconds["fish_encoder"] = time.perf_counter() - begin
    begin = time.perf_counter()
    folder = new / "fish_decoder" / "1"
    comparisons += export_decoder(codec, decoder, facts, folder, report, made)
    seconds["fish_decoder"] = time.perf_counter() - begin
    del codec, decoder

    begin = time.perf_counter()
    report("fish_llama: loading")
    genuine = load_llama(checkpoint)
    dtype = _stored_dtype(checkpoint)
    folder = new / "fish_llama" / "1"
    comparisons += export_llama(genuine, full_vocabulary, dtype, folder, report)
    seconds["fish_llama"] = time.perf_counter() - begin

    for model in ("fish_llama", "fish_prompt", "fish_reference"):
        (new / model / "1").mkdir(parents=True, exist_ok=True)
        facts.save(new / model / "1")
    for name in TOKENIZER_FILES:
        shutil.copyfile(checkpoint.path / name, new / "fish_prompt" / "1" / name)
    return comparisons, seconds


def facts_of(
    checkpoint: Checkpoint, codec: Any, decoder: DecoderGraph, full_vocabulary: bool
) -> Facts:
    """What serving must know of the checkpoint."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    return Facts(
        family="fish_s1",
        checkpoint_id=checkpoint.checkpoint_id,
        sample_rate=int(codec.sample_rate),
        samples_per_frame=samples_per_frame(codec),
        codebook_sizes=tuple(int(q.codebook_size) for q in quantizers(codec)),
        max_frames=decoder.max_frames,
        max_reference_frames=max_prompt_length(int(config.max_seq_len)),
        history_frames=decoder.history_frames,
        vocab_size=int(config.vocab_size),
        max_seq_len=int(config.max_seq_len),
        semantic_begin_id=int(tokenizer.semantic_begin_id),
        num_semantic=num_semantic(config, tokenizer),
        im_end_id=int(tokenizer.get_token_id("<|im_end|>")),
        full_vocabulary=full_vocabulary,
        num_layers=int(config.n_layer),
        num_kv_heads=int(config.n_local_heads),
        head_dim=int(config.head_dim),
    )


def _stored_dtype(checkpoint: Checkpoint) -> torch.dtype:
    """The checkpoint's own: converting back and forth must lose nothing."""
    weights = torch.load(checkpoint.path / "model.pth", mmap=True, weights_only=True)
    weights = weights.get("state_dict", weights)
    types = {t.dtype for t in weights.values() if t.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32


def _require_parity(comparisons: list[Comparison]) -> None:
    failed = [c for c in comparisons if not c.passed]
    if failed:
        lines = [f"  {c.artefact}: {c.of} {c.error:g}, limit {c.limit:g}" for c in failed]
        raise ParityError(
            "these artefacts differ from upstream, so nothing was put in place:\n"
            + "\n".join(lines)
        )


def _only_committed(folder: str, names: list[str]) -> list[str]:
    """Leave artefacts behind: everything in a version folder but the code."""
    if not Path(folder).name.isdecimal():
        return []
    return [name for name in names if name not in ("model.py", ".gitkeep")]


def _place(new: Path, repository: Path) -> dict[str, int]:
    """Rename every new file over its predecessor."""
    sizes = {}
    for model in ("fish_encoder", "fish_decoder"):
        for name in (FILE_NAME, INT8_FILE_NAME):
            (repository / model / "1" / name).unlink(missing_ok=True)  # of other weights
    for source in sorted(p for p in new.rglob("*") if p.is_file()):
        target = repository / source.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        sizes[str(source.relative_to(new))] = source.stat().st_size
        os.replace(source, target)
    return sizes


def tables(result: Result) -> list[Table]:
    """What to show of an export."""
    parity = Table(title="Parity with upstream", title_justify="left")
    for column in ("artefact", "of", "error", "limit"):
        parity.add_column(column, justify="left" if column in ("artefact", "of") else "right")
    for c in result.comparisons:
        parity.add_row(c.artefact, c.of, f"{c.error:.2g}", f"{c.limit:.2g}")
    files = Table(title="Artefacts", title_justify="left")
    files.add_column("file")
    files.add_column("MB", justify="right")
    for name, size in result.sizes.items():
        files.add_row(name, f"{size / 1e6:.1f}")
    times = Table(title="Seconds", title_justify="left")
    times.add_column("stage")
    times.add_column("s", justify="right")
    for stage, seconds in result.seconds.items():
        times.add_row(stage, f"{seconds:.1f}")
    return [parity, files, times]
