"""The codec on kernels for this machine's CPU: written, and compared with upstream.

Everything is computed in float32, or, where there are matrix units, in sums of two bfloat16, which
are as good as float32 for codes and audio. The decoder in 8 bits is written only if that is asked
for, beside the other.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from engine.codec import package
from engine.codec.decoder import DecoderGraph
from engine.codec.encoder import EncoderGraph
from engine.codec.int8 import input_ranges
from engine.codec.layers import UnsupportedCodecError
from engine.codec.on_kernels.decoder import KernelDecoder
from engine.codec.on_kernels.encoder import KernelEncoder
from export import parity
from export.parity import Case, Comparison
from export.trace import quiet

DECODER_INPUTS = ["codes", "new_frames"]
ENCODER_INPUTS = ["waveform", "chunk_frames"]
_UNITS = ("amx_bf16", "amx_int8", "amx_tile")
# 8 bits may have this many times the noise of bfloat16, 12 dB more, where bfloat16 costs next to
# nothing: the demo voice loses 6 dB by it, random weights 9.
_OF_BFLOAT16 = 4.0
Report = Callable[[str], None]


def export_encoder(
    graph: EncoderGraph, cases: list[Case], folder: Path, report: Report
) -> list[Comparison]:
    """Write the encoder and compare it; it is removed if codes differ, since others serve too.

    Args:
        graph: The encoder; its step becomes the one on kernels.
        cases: Inputs, and upstream's codes.
        folder: Of the other artefacts.
        report: Takes a line of progress.
    """
    report("fish_encoder: for this CPU")
    path, frame = folder / package.FILE_NAME, graph.samples_per_frame
    try:
        module = KernelEncoder(graph.step)
    except UnsupportedCodecError as error:
        report(f"fish_encoder: {error}")
        return []
    facts = {"frames": graph.step.max_frames, "samples_per_frame": frame}
    _save(module, path, ENCODER_INPUTS, "float32", state_size=module.state_size, **facts)
    graph.step = _Framed(package.load(path)[0], frame)
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
    graph: DecoderGraph, cases: list[Case], folder: Path, report: Report
) -> list[Comparison]:
    """Write the decoder and compare it; nothing if the codec has a layer without a kernel.

    Args:
        graph: The decoder.
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Takes a line of progress.
    """
    report("fish_decoder: for this CPU")
    try:
        module = KernelDecoder(graph)
    except UnsupportedCodecError as error:
        report(f"fish_decoder: {error}")
        return []
    path = folder / package.FILE_NAME
    name = f"fish_decoder/{path.name}"
    run = _saved_decoder(module, graph, path, "float32")
    error = parity.worst(run, cases, parity.max_abs)
    comparison = Comparison(name, "audio, max abs", error, parity.AUDIO_LIMIT)
    if comparison.passed or not torch.ops.voicereel.has_units():
        return [comparison]
    # Not good enough for float32, sums of two bfloat16 are served where half precision will do.
    run = _saved_decoder(module, graph, path, "bfloat16")
    error = parity.worst(run, cases, parity.noise)
    return [Comparison(name, "audio, noise / signal", error, parity.NOISE_LIMIT)]


def export_int8(
    graph: DecoderGraph, examples: list[Tensor], cases: list[Case], folder: Path, report: Report
) -> list[Comparison]:
    """Write the decoder in 8 bits and compare it, by what bfloat16 would lose on the same inputs.

    Args:
        graph: The decoder.
        examples: Codes to find ranges with, int64 (1, codebooks, frames).
        cases: Inputs, and upstream's audio.
        folder: Of the other artefacts.
        report: Takes a line of progress.
    """
    report("fish_decoder: in int8")
    path = folder / package.INT8_FILE_NAME
    try:
        module = KernelDecoder(graph, input_ranges(graph, examples))
    except UnsupportedCodecError as error:
        report(f"fish_decoder: {error}")
        return []
    run = _saved_decoder(module, graph, path, "int8")
    with torch.inference_mode():
        limit = _OF_BFLOAT16 * parity.together(in_bfloat16(graph), cases, parity.noise)
    error = parity.together(run, cases, parity.noise)
    return [Comparison(f"fish_decoder/{path.name}", "audio, noise / signal", error, limit)]


def in_bfloat16(graph: DecoderGraph) -> parity.Run:
    """A runner of a copy whose convolutions are in bfloat16, with all before them in float32."""
    half = copy.deepcopy(graph)
    half.convolutions.bfloat16()
    if not torch.cpu._is_avx512_bf16_supported():
        _multiply_in_float32(half.convolutions)
    first = half.windows[0].layer
    first.register_forward_pre_hook(lambda _, inputs: (inputs[0].bfloat16(),))
    return lambda codes, new_frames: (half(codes, new_frames).float(),)


def _multiply_in_float32(convolutions: nn.Module) -> None:
    """Sums of products are float32 in bfloat16 too; emulated, they take 20 to 40 times as long."""
    for conv in convolutions.modules():
        if isinstance(conv, nn.Conv1d | nn.ConvTranspose1d):
            conv.float()  # of weights that are rounded already
            conv.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
            conv.register_forward_hook(lambda _, inputs, y: y.bfloat16())


class _Framed(nn.Module):
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
        "codebooks": graph.num_codebooks,
        "frames": graph.max_frames,
        "history_frames": graph.history_frames,
        "samples_per_frame": graph.samples_per_frame,
    }
    _save(module, path, DECODER_INPUTS, precision, **facts)
    return parity.script_runner(package.load(path)[0])


def _save(module: nn.Module, path: Path, inputs: list[str], precision: str, **facts: int) -> None:
    needs = _UNITS if torch.ops.voicereel.has_units() else ()
    with quiet():
        package.save(module, path, package.description(inputs, precision, needs, **facts))
