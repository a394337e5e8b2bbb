"""The codec stage: fish_encoder and fish_decoder, as ONNX, as TorchScript, and on kernels."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.codec import structure
from engine.codec.decoder import DecoderGraph
from engine.codec.encoder import EncoderGraph
from engine.codec.int8 import example_codes
from engine.codec.layers import UnsupportedCodecError
from ensemble.contract.facts import Facts
from export import codec_kernels, parity
from export.parity import Comparison, Run
from export.trace import torchscript

Report = Callable[[str], None]

STEP_AXES = {
    "part": {0: "batch", 1: "part"},
    "state": {0: "batch"},
    "new_codes": {0: "batch", 2: "new"},
    "next_state": {0: "batch"},
}
DECODER_AXES = {
    "codes": {0: "batch", 1: "codebooks", 2: "frames"},
    "new_frames": {0: "batch", 1: "new"},
    "audio": {0: "batch", 1: "samples"},
}


def export_encoder(
    codec: Any,
    facts: Facts,
    folder: Path,
    report: Report,
    kernels: Collection[str] = (),
    torchscript_only: bool = False,
) -> list[Comparison]:
    """Write `model.onnx` and `model.pt` into a folder and compare both with `DAC.encode`.

    Args:
        codec: The genuine module, in eval mode.
        facts: Of the checkpoint.
        folder: Where to; made here.
        report: Takes a line of progress.
        kernels: `float` asks for a file on kernels for this machine's CPU too.
        torchscript_only: Write `model.pt` alone and compare nothing.
    """
    graph = EncoderGraph(codec, facts.max_reference_frames).eval()
    folder.mkdir(parents=True)
    signal = parity.test_signal(2, 3 * facts.samples_per_frame, facts.sample_rate)
    example = (signal, torch.zeros(2, graph.state_size), torch.tensor(0))
    if torchscript_only:
        _write_encoder_script(graph, example, folder, report)
        return []
    report("fish_encoder: upstream's codes")
    cases = parity.encoder_cases(codec, facts.sample_rate, facts.samples_per_frame)
    step = graph.step
    files = _write_encoder(graph, example, folder, report)
    comparisons = [
        Comparison(
            f"fish_encoder/{name}", "codes that differ",
            parity.worst(run, cases, parity.differing), parity.CODES_LIMIT,
        )
        for name, run in files
    ]  # fmt: skip
    if "float" in kernels:
        graph.step = step
        comparisons += codec_kernels.export_encoder(graph, cases, folder, report)
    return comparisons


def export_decoder(
    codec: Any,
    graph: DecoderGraph,
    facts: Facts,
    folder: Path,
    report: Report,
    kernels: Collection[str] = (),
    torchscript_only: bool = False,
) -> list[Comparison]:
    """Write `model.onnx` and `model.pt` into a folder and compare both with `DAC.decode`.

    They decode windows, which together must equal the whole.

    Args:
        codec: The genuine module, in eval mode.
        graph: Made of it.
        facts: Of the checkpoint.
        folder: Where to; made here.
        report: Takes a line of progress.
        kernels: `float` and `int8` ask for files on kernels for this machine's CPU too.
        torchscript_only: Write `model.pt` alone and compare nothing.
    """
    codes = torch.zeros(2, facts.num_codebooks, 12, dtype=torch.int64)
    example = (codes, torch.arange(8, 12).repeat(2, 1))
    folder.mkdir(parents=True)
    if torchscript_only:
        _write_decoder_script(graph, example, folder, report)
        return []
    report("fish_decoder: upstream's audio")
    cases = parity.decoder_cases(codec, facts.codebook_sizes, facts.samples_per_frame)
    files = _write_decoder(graph, example, folder, report)
    comparisons = [
        Comparison(
            f"fish_decoder/{name}", "audio, max abs",
            parity.worst(run, parity.with_padding(cases), parity.max_abs), parity.AUDIO_LIMIT,
        )
        for name, run in files
    ]  # fmt: skip
    if "float" in kernels:
        comparisons += codec_kernels.export_decoder(graph, cases, folder, report)
    if "int8" in kernels:
        examples = example_codes(codec)
        comparisons += codec_kernels.export_int8(graph, examples, cases, folder, report)
    return comparisons


def _write_encoder(
    graph: EncoderGraph, example: tuple[Tensor, ...], folder: Path, report: Report
) -> Iterator[tuple[str, Run]]:
    """Write each file, then yield its name and a runner for it; the example is the step's."""
    # Here and below: an export of TorchScript alone does without ONNX.
    from export.onnx_loop import STEP_INPUTS, STEP_OUTPUTS, looped
    from export.write import onnx_graph, save_with_weights

    report("fish_encoder: ONNX")
    path = folder / "model.onnx"
    step = onnx_graph(graph.step, example, STEP_INPUTS, STEP_OUTPUTS, STEP_AXES)
    model = looped(step, graph.samples_per_frame, graph.codebooks, graph.state_size)
    save_with_weights(model, graph.step, path)
    yield path.name, parity.onnx_runner(path)
    path = _write_encoder_script(graph, example, folder, report)
    yield path.name, parity.script_runner(torch.jit.load(str(path)))


def _write_encoder_script(
    graph: EncoderGraph, example: tuple[Tensor, ...], folder: Path, report: Report
) -> Path:
    report("fish_encoder: TorchScript")
    path = folder / "model.pt"
    graph.step = torchscript(graph.step, {"forward": example})
    torch.jit.script(graph).save(str(path))
    return path


def _write_decoder(
    graph: DecoderGraph, example: tuple[Tensor, ...], folder: Path, report: Report
) -> Iterator[tuple[str, Run]]:
    """Write each file, then yield its name and a runner for it."""
    from export.write import onnx_graph, save_with_weights

    report("fish_decoder: ONNX")
    path = folder / "model.onnx"
    model = onnx_graph(graph, example, codec_kernels.DECODER_INPUTS, ["audio"], DECODER_AXES)
    save_with_weights(model, graph, path)
    yield path.name, parity.onnx_runner(path)
    path = _write_decoder_script(graph, example, folder, report)
    yield path.name, parity.script_runner(torch.jit.load(str(path)))


def _write_decoder_script(
    graph: DecoderGraph, example: tuple[Tensor, ...], folder: Path, report: Report
) -> Path:
    report("fish_decoder: TorchScript")
    path = folder / "model.pt"
    script = torchscript(graph, {"forward": example})
    script.save(str(path), _extra_files=_structure(graph, report))
    return path


def _structure(graph: DecoderGraph, report: Report) -> dict[str, str]:
    """What a GPU's kernels need beside the weights; nothing for a layer that they do not know."""
    try:
        return {structure.FILE: json.dumps(structure.structure_of(graph))}
    except UnsupportedCodecError as error:
        report(f"fish_decoder: without kernels on a GPU: {error}")
        return {}
