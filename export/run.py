"""Exports a checkpoint folder into a model repository: write, compare, then put in place."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from engine.codec.decoder import DecoderGraph
from engine.codec.memory import keep_memory
from engine.codec.package import FILE_NAME, INT8_FILE_NAME, machine_fault
from engine.codec.quantizer import quantizers
from engine.codec.streaming import samples_per_frame
from ensemble.contract import manifest
from ensemble.contract.facts import Facts, max_prompt_length
from export.codec import export_decoder, export_encoder
from export.large import is_large
from export.lm import export_llama
from export.parity import Comparison
from families.registry import PROMPT_FILES, Checkpoint, CheckpointError, Family, family_of

LONGEST_REFERENCE = 6144  # frames, 285 s: S1-mini's; the encoder was tried with no more
TEMPLATE = Path(__file__).resolve().parents[1] / "model_repository"


class ParityError(RuntimeError):
    """An artefact is not what upstream computes; nothing was put in place."""


@dataclass(frozen=True)
class Asked:
    """What an export shall write beyond the artefacts that every repository needs.

    Attributes:
        full_vocabulary: For parity: logits for every token, which the engine samples as
            fish-speech 0.1.0 does, oddities included.
        kernels: The codec for this machine's CPU operators, if it has a C++ compiler.
        int8: The decoder in 8 bits for them, if this CPU can.
        onnx_llama: The language model as ONNX, which no model here serves.
        torchscript_only: Nothing but what serving on a GPU needs, in seconds: TorchScript, no
            ONNX, no kernels, nothing compared with upstream. For load tests of random weights.
    """

    full_vocabulary: bool = False
    kernels: bool = False
    int8: bool = False
    onnx_llama: bool = False
    torchscript_only: bool = False


@dataclass(frozen=True)
class Result:
    """What an export made.

    Attributes:
        comparisons: Every artefact against upstream.
        sizes: Bytes of each file, by its path in the repository.
        seconds: Duration of each stage.
    """

    comparisons: list[Comparison]
    sizes: dict[str, int]
    seconds: dict[str, float]


def export_checkpoint(
    checkpoint_folder: Path, repository: Path, console: Console, asked: Asked = Asked()
) -> Result:
    """Export all stages and put them into a repository, or raise and leave it as it was.

    Args:
        checkpoint_folder: A checkpoint of a family in `families/`.
        repository: The model repository; if it is not the committed one, the committed
            configurations and Python models are copied there.
        console: For progress; results are for the caller to print.
        asked: What else to write.

    Raises:
        CheckpointError: If the checkpoint is unusable.
        ParityError: With both numbers of every artefact that differs.
    """
    keep_memory()
    made = _kernels(asked, console)
    with console.status("checking the checkpoint") as status:
        family = family_of(checkpoint_folder)
        if asked.full_vocabulary and not family.has_full_vocabulary:
            raise CheckpointError(
                f"export: --full-vocabulary is not for {checkpoint_folder}, of family "
                f"{family.name}: its upstream samples from the semantic tokens and the end, as "
                "every export does. Leave the option out"
            )
        checkpoint = family.load_checkpoint(checkpoint_folder)
        if asked.onnx_llama and is_large(family.load_llama(checkpoint)):
            raise CheckpointError(
                "export: the language model is too large for ONNX, whose graph is in float32. "
                "Leave ONNX_LLAMA out: no model here serves it"
            )
        repository.mkdir(parents=True, exist_ok=True)
        _check_disk(checkpoint.path, repository, asked, len(made), console)
        # Beside the repository: on the same file system, and not a model of a running server.
        with tempfile.TemporaryDirectory(dir=repository.resolve().parent, prefix=".export-") as new:
            stages = _Stages(family, checkpoint, asked, Path(new), status.update)
            stages.codec(made)
            stages.llama()
            stages.facts_and_tokenizer()
            shells = manifest.shells_of(TEMPLATE, TEMPLATE)
            for folder in sorted(Path(new).glob("*/1")):
                manifest.write(folder, stages.facts, shells)
            _require_parity(stages.comparisons)
            if stages.facts.notice:
                console.print(f"export: {stages.facts.notice}")
            status.update("putting the artefacts in place")
            if repository.resolve() != TEMPLATE:
                shutil.copytree(TEMPLATE, repository, dirs_exist_ok=True, ignore=_only_committed)
            sizes = _place(Path(new), repository)
    return Result(stages.comparisons, sizes, stages.seconds)


def _check_disk(
    checkpoint: Path, repository: Path, asked: Asked, kernel_files: int, console: Console
) -> None:
    """Say how much disk the export takes, and refuse to begin where there is less.

    Raises:
        CheckpointError: With both numbers.
    """
    sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir() if file.is_file()}
    codec = sizes.pop("codec.pth")
    # The codec as ONNX, TorchScript and for kernels; the language model, and as ONNX in float32.
    needed = codec * (2 + kernel_files) + sum(sizes.values()) * (3 if asked.onnx_llama else 1)
    free = shutil.disk_usage(repository.resolve().parent).free
    said = f"up to {needed / 1e9:.1f} GB of disk at {repository.resolve().parent}"
    if free < needed:
        raise CheckpointError(f"export: needs {said}, but {free / 1e9:.1f} GB are free")
    console.print(f"export: takes {said}, {free / 1e9:.0f} GB are free")


def _kernels(asked: Asked, console: Console) -> list[str]:
    """Which of the files for CPU operators can be made here; prints why not."""
    if asked.torchscript_only or not (asked.kernels or asked.int8):
        return []
    if fault := machine_fault():
        console.print(f"export: the codec is not laid out for this CPU: {fault}")
        return []
    made = ["float"] if asked.kernels else []
    if asked.int8 and (fault := machine_fault(int8=True)):
        console.print(f"export: no decoder in int8: {fault}")
    elif asked.int8:
        made.append("int8")
    return made


class _Stages:
    """Writes `MODEL/1/...` below a new folder, with one stage's weights in memory at a time.

    Attributes:
        comparisons: Every artefact against upstream.
        seconds: Duration of each stage.
    """

    def __init__(
        self,
        family: Family,
        checkpoint: Checkpoint,
        asked: Asked,
        new: Path,
        report: Callable[[str], None],
    ) -> None:
        self.family, self.checkpoint, self.asked = family, checkpoint, asked
        self.new, self.report = new, report
        self.comparisons: list[Comparison] = []
        self.seconds: dict[str, float] = {}

    def codec(self, made: list[str]) -> None:
        """Export encoder and decoder, and collect the facts, some of which the codec knows."""
        codec = self.family.load_codec(self.checkpoint)
        decoder = DecoderGraph(codec).eval()
        self.facts = self._facts(codec, decoder)
        with self._timed("fish_encoder") as folder:
            self.comparisons += export_encoder(
                codec, self.facts, folder, self.report, made, self.asked.torchscript_only
            )
        with self._timed("fish_decoder") as folder:
            self.comparisons += export_decoder(
                codec, decoder, self.facts, folder, self.report, made, self.asked.torchscript_only
            )

    def llama(self) -> None:
        """Export the language model."""
        with self._timed("fish_llama") as folder:
            self.report("fish_llama: loading")
            genuine = self.family.load_llama(self.checkpoint)
            llama = self.family.engine_llama(genuine, self.asked.full_vocabulary)
            dtype = self.family.stored_dtype(self.checkpoint)
            asked = self.asked.onnx_llama, self.asked.torchscript_only
            self.comparisons += export_llama(genuine, llama, dtype, folder, self.report, *asked)

    def facts_and_tokenizer(self) -> None:
        """Write what the Python models read."""
        for model in ("fish_checkpoint", "fish_llama", "fish_prompt", "fish_reference"):
            folder = self.new / model / "1"
            folder.mkdir(parents=True, exist_ok=True)
            self.facts.save(folder)
        for name in PROMPT_FILES[self.family.name]:
            shutil.copyfile(self.checkpoint.path / name, self.new / "fish_prompt" / "1" / name)

    @contextlib.contextmanager
    def _timed(self, model: str) -> Iterator[Path]:
        begin = time.perf_counter()
        yield self.new / model / "1"
        self.seconds[model] = time.perf_counter() - begin

    def _facts(self, codec: Any, decoder: DecoderGraph) -> Facts:
        language = self.family.language_facts(self.checkpoint)
        return Facts(
            family=self.family.name,
            checkpoint_id=self.checkpoint.checkpoint_id,
            sample_rate=int(codec.sample_rate),
            samples_per_frame=samples_per_frame(codec),
            codebook_sizes=tuple(int(q.codebook_size) for q in quantizers(codec)),
            max_frames=decoder.max_frames,
            max_reference_frames=min(max_prompt_length(language["max_seq_len"]), LONGEST_REFERENCE),
            history_frames=decoder.history_frames,
            full_vocabulary=self.asked.full_vocabulary,
            **language,
        )


def _require_parity(comparisons: list[Comparison]) -> None:
    failed = [c for c in comparisons if not c.passed]
    if failed:
        lines = [f"  {c.artefact}: {c.of} {c.error:g}, limit {c.limit:g}" for c in failed]
        raise ParityError(
            "these artefacts differ from upstream, so nothing was put in place:\n"
            + "\n".join(lines)
        )


def _only_committed(folder: str, names: list[str]) -> list[str]:
    """Names that are not to be copied: everything in a version folder but the code."""
    if not Path(folder).name.isdecimal():
        return []
    return [name for name in names if name not in ("model.py", ".gitkeep")]


def _place(new: Path, repository: Path) -> dict[str, int]:
    """Rename every new file over the old one; optional files of an earlier export go."""
    sizes = {}
    for model in ("fish_encoder", "fish_decoder"):
        for name in ("model.onnx", "model.pt", FILE_NAME, INT8_FILE_NAME):
            if not (new / model / "1" / name).exists():
                (repository / model / "1" / name).unlink(missing_ok=True)
    shutil.rmtree(repository / "fish_llama" / "1" / "onnx", ignore_errors=True)
    for source in sorted(p for p in new.rglob("*") if p.is_file()):
        target = repository / source.relative_to(new)
        target.parent.mkdir(parents=True, exist_ok=True)
        sizes[str(source.relative_to(new))] = source.stat().st_size
        os.replace(source, target)
    return sizes


def tables(result: Result) -> list[Table]:
    """Tables that show an export: parity, files and durations."""
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
