"""The codec in process against genuine upstream, interleaved.

    python -m benchmarks.codec --checkpoint checkpoints/s1mini --repository build/s1mini-repository

Decoding is the compiled package where the repository has one, else model.pt; encoding is
model.onnx. Upstream cannot decode a window exactly, so its time is that of its whole decode of as
many frames as are new. The last line of stdout is one JSON object.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import machine
from ensemble import compiled
from export import parity
from export.checkpoint import load_checkpoint, load_codec
from export.codec_graphs import quantizers, samples_per_frame

LONG_HISTORY = 256  # frames


def decoder_run(folder: Path) -> tuple[str, parity.Run]:
    """The artefact that a CPU serves, and its call."""
    package = folder / compiled.FILE_NAME
    if package.is_file() and compiled.wanted():
        from torch._inductor import aoti_load_package

        return package.name, parity.script_runner(aoti_load_package(str(package)))
    return "model.pt", parity.script_runner(torch.jit.load(str(folder / "model.pt")))


def seconds(calls: list[Callable[[], Any]], repeats: int) -> list[float]:
    """Median time of each, taking turns: the machine is shared."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(repeats + 1):
        for call, found in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            if turn:  # the first is the warm-up
                found.append(time.perf_counter() - begin)
    return [statistics.median(found) for found in times]


def windows(codec: Any, batch: int, history: int, new: int) -> tuple[Tensor, Tensor]:
    """Random codes: int64 (batch, codebooks, history + new), and the numbers of the new frames."""
    shape = (batch, history + new)
    rows = [torch.randint(0, int(q.codebook_size), shape) for q in quantizers(codec)]
    numbers = torch.arange(history, history + new).repeat(batch, 1)
    return torch.stack(rows, dim=1), numbers


def snr_db(got: Tensor, expected: Tensor) -> float:
    """Signal to noise."""
    return -20 * torch.tensor(parity.noise(got, expected)).log10().item()


@torch.inference_mode()
def main(
    checkpoint: Annotated[Path, typer.Option(help="For upstream")],
    repository: Annotated[Path, typer.Option(help="The same checkpoint, exported")],
    batches: str = "1,4,16",
    new_frames: str = "1,8,32,64",
    max_frames: Annotated[int, typer.Option(help="Batch times new frames, at most")] = 64,
    repeats: int = 3,
) -> None:
    """Measure and print; the table goes to stderr."""
    codec: Any = load_codec(load_checkpoint(checkpoint))
    rate, frame = int(codec.sample_rate), samples_per_frame(codec)
    name, decode = decoder_run(repository / "fish_decoder" / "1")
    encode = parity.onnx_runner(repository / "fish_encoder" / "1" / "model.onnx")
    table = Table("what", "batch", "new", "history", "RTF", "upstream RTF", "speed-up", title=name)
    decoded, worst_snr = {}, float("inf")
    for batch in map(int, batches.split(",")):
        for new in map(int, new_frames.split(",")):
            if batch * new > max_frames:
                continue
            history = min(LONG_HISTORY, codec.quantizer.post_module.config.block_size - new)
            short, long = (windows(codec, batch, h, new) for h in (0, history))
            lengths = torch.full((batch,), new)
            expected = codec.decode(short[0], lengths)[0][:, 0]
            worst_snr = min(worst_snr, snr_db(decode(*short)[0], expected))
            calls = [
                lambda x=short: decode(*x),
                lambda x=short[0], n=lengths: codec.decode(x, n),
                lambda x=long: decode(*x),
            ]
            ours, upstream, later = seconds(calls, repeats)
            audio_s = batch * new * frame / rate
            decoded[batch, new] = ours / audio_s, upstream / ours
            for before, took in ((0, ours), (history, later)):
                figures = (took / audio_s, upstream / audio_s, upstream / took)
                cells = [f"{x:.2f}" for x in figures]
                table.add_row("decode", str(batch), str(new), str(before), *cells)
    waveform = parity.test_signal(1, 96 * frame, rate)
    equal = torch.equal(encode(waveform)[0], codec.encode(waveform[:, None])[0])
    calls = [lambda: encode(waveform), lambda: codec.encode(waveform[:, None])]
    ours, upstream = seconds(calls, repeats)
    audio_s = waveform.shape[1] / rate
    encoded = [ours / audio_s, upstream / audio_s, upstream / ours]
    table.add_row("encode", "1", "96", "", *(f"{x:.2f}" for x in encoded))
    Console(stderr=True).print(table)
    best = max(decoded, key=lambda key: key[1])
    summary = {
        "decode_speedup": decoded[best][1], "decode_rtf": decoded[best][0],
        "decode_frames": best[1], "decode_artefact": name,
        "encode_speedup": encoded[2], "encode_rtf": encoded[0], "codes_equal": equal,
        "snr_db": worst_snr,
        "matmul_tflops": machine.matmul_flops_per_s(torch.float32) / 1e12,
        "machine": machine.describe(), "commit": machine.commit(),
    }  # fmt: skip
    print(json.dumps(summary))


if __name__ == "__main__":
    typer.run(main)
