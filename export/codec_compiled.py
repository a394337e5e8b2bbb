"""The codec compiled ahead of time for this machine's CPU: AOTInductor packages.

Needs a C++ compiler. The encoder in float32, since codes must be equal. The decoder in bfloat16
where the machine multiplies so clearly faster, float32 elsewhere; in 8 bits only if that is asked
for, beside the other.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from engine.settings import settings_from
from ensemble import compiled
from export import parity
from export.codec_channels_last import ChannelsLastDecoder
from export.codec_channels_last_encoder import ChannelsLastEncoder, Packaged
from export.codec_graphs import DecoderGraph, EncoderGraph
from export.parity import Case, Comparison
from export.write import quiet

INPUTS = ["codes", "new_frames"]
ENCODER_INPUTS = ["waveform", "chunk_frames"]
# 8 bits may cost 12 dB where bfloat16 costs nothing much: the demo voice loses 6, random weights 9.
_OF_BFLOAT16 = 4.0
_WORTH = 1.3  # times float32's speed: below that bfloat16 costs accuracy for little
_SETTINGS = {
    "freezing": True,  # weights in the order that the convolutions want
    "cpp.dynamic_threads": True,  # as many as the serving machine has, not this one
    "aot_inductor.compile_wrapper_opt_level": "O0",  # it only calls; O3 doubles the build
}


def export_encoder(
    graph: EncoderGraph, cases: list[Case], folder: Path, report: Callable[[str], None]
) -> list[Comparison]:
    """Write `model.pt2` and compare it; it is taken back if codes differ, as others serve too.

    Args:
        graph: The encoder, whose step becomes the package.
        cases: Inputs, and upstream's codes.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    from torch._inductor import aoti_load_package

    path, frame, size = folder / compiled.FILE_NAME, graph.samples_per_frame, graph.state_size
    report("fish_encoder: compiling in float32")
    # One frame less than a run may have, within the attention's windows: one block each.
    part = torch.zeros(2, compiled.ENCODER_FRAMES - 1, frame)
    example = part, torch.zeros(2, size), torch.tensor(0)
    facts = {"frames": graph.step.max_frames, "samples_per_frame": frame, "state_size": size}
    described = compiled.description(ENCODER_INPUTS, "float32", **facts)
    axes = {0: Dim.AUTO, 1: Dim.AUTO}, {0: Dim.AUTO}, None
    _compile(ChannelsLastEncoder(graph.step).eval(), example, axes, described, path)
    graph.step = Packaged(aoti_load_package(str(path)), frame)
    error = parity.worst(parity.script_runner(graph), cases, parity.differing)
    name = f"fish_encoder/{path.name}"
    comparison = Comparison(name, "codes that differ", error, parity.CODES_LIMIT)
    if comparison.passed:
        return [comparison]
    report(f"{name}: {error:.2%} of the codes differ, left out")
    path.unlink()
    return []


def export_decoder(
    graph: DecoderGraph, cases: list[Case], folder: Path, report: Callable[[str], None]
) -> list[Comparison]:
    """Write `model.pt2` and compare it; nothing is written where nothing can be compiled.

    Args:
        graph: The decoder.
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    from torch._inductor import aoti_load_package

    path, comparison = folder / compiled.FILE_NAME, None
    for dtype in _dtypes():
        report(f"fish_decoder: compiling in {dtype}")
        precision = str(dtype).removeprefix("torch.")
        _compile_decoder(ChannelsLastDecoder(graph, dtype).eval(), precision, path)
        run = parity.script_runner(aoti_load_package(str(path)))
        name = f"fish_decoder/{path.name}"
        if dtype == torch.float32:
            error = parity.worst(run, cases, parity.max_abs)
            comparison = Comparison(name, "audio, max abs", error, parity.AUDIO_LIMIT)
        else:
            error = parity.worst(run, cases, parity.noise)
            comparison = Comparison(name, "audio, noise / signal", error, parity.NOISE_LIMIT)
        if comparison.passed:
            break
    return [comparison] if comparison else []


def export_int8(
    graph: DecoderGraph,
    examples: list[Tensor],
    cases: list[Case],
    folder: Path,
    report: Callable[[str], None],
) -> Comparison:
    """Write `model-int8.pt2` and compare it, by what bfloat16 loses on the same inputs.

    Args:
        graph: The decoder.
        examples: Codes to find the steps with, int64 (1, codebooks, frames).
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    from torch._inductor import aoti_load_package

    from export.codec_int8 import int8_decoder

    path = folder / compiled.INT8_FILE_NAME
    report("fish_decoder: compiling in int8")
    _compile_decoder(int8_decoder(graph, examples), "int8", path)
    half = ChannelsLastDecoder(graph, torch.bfloat16).eval()
    with torch.inference_mode():
        limit = _OF_BFLOAT16 * parity.worst(parity.script_runner(half), cases, parity.noise)
    run = parity.script_runner(aoti_load_package(str(path)))
    error = parity.worst(run, cases, parity.noise)
    return Comparison(f"fish_decoder/{path.name}", "audio, noise / signal", error, limit)


def compiler_fault() -> str | None:
    """Why nothing can be compiled here, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (apt-get install g++)"
    return None


def _dtypes() -> list[torch.dtype]:
    """Best first; the last is exact."""
    half = settings_from(device="cpu").dtype
    if half == torch.bfloat16 and _rate(half) > _WORTH * _rate(torch.float32):
        return [torch.bfloat16, torch.float32]
    return [torch.float32]


def _rate(dtype: torch.dtype) -> float:
    """Products of matrices as the convolutions have them, per second."""
    a = torch.randn(2048, 768).to(dtype)
    b = torch.randn(768, 768).to(dtype)
    times = []
    for _ in range(8):
        begin = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - begin)
    return 1 / min(times)


def _compile_decoder(decoder: ChannelsLastDecoder, precision: str, path: Path) -> None:
    graph = decoder.decoder
    facts = {"codebooks": graph.largest.shape[1], "frames": graph.count.shape[1]}
    described = compiled.description(INPUTS, precision, **facts)
    free = Dim.AUTO
    axes = ({0: free, 1: free, 2: free}, {0: free, 1: free})
    _compile(decoder, _example(graph), axes, described, path)


def _compile(
    module: nn.Module,
    example: tuple[Tensor, ...],
    axes: tuple[Any, ...],
    described: dict[str, str],
    path: Path,
) -> None:
    from torch._inductor import aoti_compile_and_package
    from torch._inductor.utils import fresh_cache

    with quiet(), torch.no_grad(), fresh_cache():
        program = torch.export.export(module, example, dynamic_shapes=axes)
        aoti_compile_and_package(
            program,
            package_path=str(path),
            inductor_configs={**_SETTINGS, "aot_inductor.metadata": described},
        )


def _example(graph: DecoderGraph) -> tuple[Tensor, Tensor]:
    """Longer than the attention's window, and with a row that is not read (the server's warm-up
    has many): what is equal here would be taken to be so always.
    """
    window = getattr(graph.transformer, "window", 1)
    frames = min(2 * window + 44, graph.count.shape[1])
    codes = torch.zeros(2, graph.largest.shape[1] + 1, frames, dtype=torch.int64)
    return codes, torch.arange(frames - 12, frames).repeat(2, 1)
