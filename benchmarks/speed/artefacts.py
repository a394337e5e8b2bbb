"""The codec's artefacts, called in process as they are served on a CPU."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.codec import package
from engine.codec.memory import keep_memory
from engine.codec.session import DecoderSession, encode
from ensemble.contract.reference import CHUNK_FRAMES
from ensemble.contract.settings import server_settings
from export.parity import Run, onnx_runner


def decoders(repository: Path, int8: bool) -> dict[str, Run]:
    """The decoders that a repository has; the one that is served comes first."""
    folder = repository / "fish_decoder" / "1"
    plain = {"model.pt": script(folder), "model.onnx": onnx_runner(folder / "model.onnx")}
    names = [*([package.INT8_FILE_NAME] if int8 else []), package.FILE_NAME]
    present = [n for n in names if (folder / n).is_file() and server_settings().use_kernels]
    return {n: _kernels(folder / n) for n in present} | plain


def encoders(repository: Path) -> dict[str, Run]:
    """The encoders that a repository has, called with waveforms, in pieces of the default size."""
    folder = repository / "fish_encoder" / "1"
    runs = {"model.onnx": onnx_runner(folder / "model.onnx"), "model.pt": script(folder)}
    if (folder / package.FILE_NAME).is_file() and server_settings().use_kernels:
        runs = {package.FILE_NAME: _encoder_kernels(folder / package.FILE_NAME), **runs}
    return {name: _in_pieces(run) for name, run in runs.items()}


def _in_pieces(encoder: Run) -> Run:
    return lambda waveform: encoder(waveform, torch.full((len(waveform), 1), CHUNK_FRAMES))


def _kernels(path: Path) -> Run:
    """The decoder on kernels as it is served. `keep_memory` speeds up upstream here as well."""
    decoder = DecoderSession(*_loaded(path))

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
    if fault := package.machine_fault():
        raise SystemExit(f"{path.name} cannot be used here: {fault}")
    keep_memory()
    return package.load(path)


def script(folder: Path, device: str = "cpu") -> Run:
    """The TorchScript as config.pbtxt serves it: unoptimised, since each new shape would pay."""
    module = torch.jit.load(str(folder / "model.pt"), map_location=device)
    optimized = torch.jit.optimized_execution  # pyright: ignore[reportPrivateImportUsage]

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        with optimized(False):
            return (module(*inputs),)

    return run
