"""The codec by this project's own operators for CPUs (`engine/native`), which g++ compiles.

Everything in float32, or, where there are matrix units, as sums of two bfloat16, which is as good
as float32 for codes and audio. The decoder in 8 bits only if that is asked for, beside the other.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ensemble import compiled
from export import parity
from export.codec_channels_last import ChannelsLastDecoder
from export.codec_graphs import DecoderGraph, EncoderGraph
from export.codec_int8 import int8_decoder
from export.codec_kernels import KernelDecoder
from export.codec_kernels_encoder import KernelEncoder
from export.codec_transformer import UnsupportedCodecError
from export.parity import Case, Comparison
from export.trace import quiet

INPUTS = ["codes", "new_frames"]
ENCODER_INPUTS = ["waveform", "chunk_frames"]
_UNITS = ("amx_bf16", "amx_int8", "amx_tile")
# 8 bits may cost 12 dB where bfloat16 costs nothing much: the demo voice loses 6, random weights 9.
_OF_BFLOAT16 = 4.0


def export_encoder(
    graph: EncoderGraph, cases: list[Case], folder: Path, report: Callable[[str], None]
) -> list[Comparison]:
    """Write it and compare it; it is taken back if codes differ, as others serve too.

    Args:
        graph: The encoder, whose step is taken.
        cases: Inputs, and upstream's codes.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    report("fish_encoder: for this CPU")
    path, frame = folder / compiled.FILE_NAME, graph.samples_per_frame
    try:
        module = KernelEncoder(graph.step)
    except UnsupportedCodecError as error:
        report(f"fish_encoder: {error}")
        return []
    facts = {"frames": graph.step.max_frames, "samples_per_frame": frame}
    _save(module, path, ENCODER_INPUTS, "float32", state_size=module.state_size, **facts)
    graph.step = Packaged(torch.jit.load(str(path)), frame)
    graph.state_size = module.state_size
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
    """Write it and compare it; nothing if the codec has a layer without a kernel.

    Args:
        graph: The decoder.
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    report("fish_decoder: for this CPU")
    try:
        module = KernelDecoder(ChannelsLastDecoder(graph))
    except UnsupportedCodecError as error:
        report(f"fish_decoder: {error}")
        return []
    path = folder / compiled.FILE_NAME
    name = f"fish_decoder/{path.name}"
    run = _saved_decoder(module, graph, path, "float32")
    error = parity.worst(run, cases, parity.max_abs)
    comparison = Comparison(name, "audio, max abs", error, parity.AUDIO_LIMIT)
    if comparison.passed or not torch.ops.voicereel.has_units():
        return [comparison]
    run = _saved_decoder(module, graph, path, "bfloat16")  # not for who asks for float32
    error = parity.worst(run, cases, parity.noise)
    return [Comparison(name, "audio, noise / signal", error, parity.NOISE_LIMIT)]


def export_int8(
    graph: DecoderGraph,
    examples: list[Tensor],
    cases: list[Case],
    folder: Path,
    report: Callable[[str], None],
) -> list[Comparison]:
    """Write it and compare it, by what bfloat16 would lose on the same inputs.

    Args:
        graph: The decoder.
        examples: Codes to find the steps with, int64 (1, codebooks, frames).
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Told what goes on.
    """
    report("fish_decoder: in int8")
    path = folder / compiled.INT8_FILE_NAME
    try:
        module = KernelDecoder(int8_decoder(graph, examples))
    except UnsupportedCodecError as error:
        report(f"fish_decoder: {error}")
        return []
    run = _saved_decoder(module, graph, path, "int8")
    half = ChannelsLastDecoder(graph, torch.bfloat16).eval()
    with torch.inference_mode():
        limit = _OF_BFLOAT16 * parity.together(parity.script_runner(half), cases, parity.noise)
    error = parity.together(run, cases, parity.noise)
    return [Comparison(f"fish_decoder/{path.name}", "audio, noise / signal", error, limit)]


class Packaged(nn.Module):
    """A `KernelEncoder` in the place of an `EncoderStep`."""

    def __init__(self, encoder: nn.Module, samples_per_frame: int) -> None:
        super().__init__()
        self.encoder, self.samples_per_frame = encoder, samples_per_frame

    def forward(self, part: Tensor, state: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        return self.encoder(part.unflatten(1, (-1, self.samples_per_frame)), state, start)


def _saved_decoder(
    module: KernelDecoder, graph: DecoderGraph, path: Path, precision: str
) -> parity.Run:
    facts = {
        "codebooks": graph.largest.shape[1],
        "frames": graph.count.shape[1],
        "history_frames": graph.history_frames,
        "samples_per_frame": graph.samples_per_frame,
    }
    _save(module, path, INPUTS, precision, **facts)
    return parity.script_runner(torch.jit.load(str(path)))


def _save(module: nn.Module, path: Path, inputs: list[str], precision: str, **facts: int) -> None:
    needs = _UNITS if torch.ops.voicereel.has_units() else ()
    described = json.dumps(compiled.description(inputs, precision, needs, **facts))
    with quiet():
        script = torch.jit.script(module.eval())
        torch.jit.save(script, str(path), _extra_files={compiled.DESCRIPTION: described})
