"""The codec's artefacts, called in process as they are served on a CPU."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.compiled import encode, keep_memory
from backends.decoder import Decoder
from engine import kernels
from ensemble import compiled
from ensemble.reference import CHUNK_FRAMES
from export.parity import Run, onnx_runner


def decoders(repository: Path, int8: bool) -> dict[str, Run]:
    """Those that a repository has, the one that is served first."""
    folder = repository / "fish_decoder" / "1"
    plain = {"model.pt": script(folder), "model.onnx": onnx_runner(folder / "model.onnx")}
    names = [*([compiled.INT8_FILE_NAME] if int8 else []), compiled.FILE_NAME]
    present = [n for n in names if (folder / n).is_file() and compiled.wanted()]
    return {n: _kernels(folder / n) for n in present} | plain


def encoders(repository: Path) -> dict[str, Run]:
    """Likewise, of waveforms alone: in the pieces that are served where nothing else is asked."""
    folder = repository / "fish_encoder" / "1"
    runs = {"model.onnx": onnx_runner(folder / "model.onnx"), "model.pt": script(folder)}
    if (folder / compiled.FILE_NAME).is_file() and compiled.wanted():
        runs = {compiled.FILE_NAME: _encoder_kernels(folder / compiled.FILE_NAME), **runs}
    return {name: _in_pieces(run) for name, run in runs.items()}


def _in_pieces(encoder: Run) -> Run:
    return lambda waveform: encoder(waveform, torch.full((len(waveform), 1), CHUNK_FRAMES))


def _kernels(path: Path) -> Run:
    """As it is served, in memory that is kept; upstream has the good of that too."""
    decoder = Decoder(*_loaded(path))

    def run(codes: Tensor, numbers: Tensor) -> tuple[Tensor, ...]:
        arrays = {"codes": codes.numpy(), "new_frames": numbers.numpy()}
        return (torch.from_numpy(decoder(arrays)),)

    return run


def _encoder_kernels(path: Path) -> Run:
    module, described = _loaded(path)

    def run(waveform: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        arrays = {"waveform": waveform.numpy(), "chunk_frames": sizes.numpy()}
        return (torch.from_numpy(encode(module, described, arrays)),)

    return run


def _loaded(path: Path) -> tuple[Any, dict[str, str]]:
    if fault := kernels.fault():
        raise SystemExit(f"{path.name} cannot be used here: {fault}")
    extra = {compiled.DESCRIPTION: ""}
    module = torch.jit.load(str(path), _extra_files=extra)
    keep_memory()
    return module, json.loads(extra[compiled.DESCRIPTION])


def script(folder: Path, device: str = "cpu") -> Run:
    """As config.pbtxt has it served: without the optimisation that every new shape would pay."""
    module = torch.jit.load(str(folder / "model.pt"), map_location=device)
    optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with optimized(False):
            return (module(*inputs),)

    return run
