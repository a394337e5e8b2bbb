"""A checkpoint of random weights and its repository, made on the spot with what serving needs."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.gpu_visit.visit import Skipped, Visit
from export.run import Asked, export_checkpoint
from families.registry import family_with_preset


@dataclass(frozen=True)
class Artefacts:
    """Attributes:
    folder: Holds both.
    weights_from: Which device drew the random weights.
    """

    folder: Path
    weights_from: str = ""

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"


def made(visit: Visit, preset: str, endless: bool) -> Artefacts:
    """Make a checkpoint and export it as TorchScript; nothing is compared with upstream.

    Args:
        visit: Tells where, and which device draws the weights.
        preset: Of `python -m export make-checkpoint`.
        endless: Whether only `max_new_tokens` ends its speech.
    """
    folder = visit.work / (f"{preset}-endless" if endless else preset)
    found = Artefacts(folder, _draw(visit.device, preset, folder / "checkpoint", endless))
    asked = Asked(torchscript_only=True)
    export_checkpoint(found.checkpoint, found.repository, Console(stderr=True), asked)
    if visit.device == "cpu":
        _serve_on_cpu(found.repository)
    return found


def served(visit: Visit) -> Artefacts:
    """What the step `export` has made.

    Raises:
        Skipped: If it has not.
    """
    found = Artefacts(visit.work / f"{visit.preset}-endless")
    if not (found.repository / "fish_llama" / "1" / "llama.pt").is_file():
        raise Skipped("needs the exported repository, which step export did not make")
    return found


def _draw(device: str, preset: str, checkpoint: Path, endless: bool) -> str:
    """Make the checkpoint with random numbers of the GPU, else of the CPU; says of which."""
    make_checkpoint = family_with_preset(preset).make_checkpoint
    for source in dict.fromkeys((device, "cpu")):
        try:
            make_checkpoint(preset, checkpoint, force=True, endless=endless, device=source)
            return source
        except RuntimeError as error:  # of torch: an operator that this GPU's build lacks, memory
            if source == "cpu":
                raise
            print(f"weights from {source}: {error}; so from the CPU", file=sys.stderr)
            shutil.rmtree(checkpoint, ignore_errors=True)
    raise AssertionError("there is always a CPU")


def _serve_on_cpu(repository: Path) -> None:
    """Let profile `gpu` serve where there is none: the same configs but for the device."""
    for config in repository.glob("*/configs/gpu.pbtxt"):
        text = config.read_text("utf-8").replace("kind: KIND_GPU, gpus: [ 0 ]", "kind: KIND_CPU")
        config.write_text(text, "utf-8")
