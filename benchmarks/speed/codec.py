"""The codec against genuine upstream in float32, interleaved; streamed; and through the server.

    python -m benchmarks.codec [--quick] [--precision int8] [--checkpoint DIR --repository DIR]

Upstream cannot decode a window exactly, so its time is that of its whole decode of as many frames
as are new. Tables go to stderr; the last line of stdout is one JSON object.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from benchmarks import machine
from benchmarks.prepared import ROOT, named_or_endless
from benchmarks.report import console, finish
from benchmarks.speed.bounds import Rates
from benchmarks.speed.cells import UPSTREAM, Codec, CodecCell, decode_cells
from benchmarks.speed.stream import server_overhead, streamed
from families.fish_s1.checkpoint import load_checkpoint, load_codec

SECOND = 22  # frames: just over 1 s of audio, at 21.5 frames a second
ENCODED = ((1, SECOND), (1, 5 * SECOND), (4, SECOND), (16, SECOND // 2))  # batch, frames
SERVED = (8, 64)  # frames of the windows that go through a server


@torch.inference_mode()
def main(
    quick: Annotated[bool, typer.Option(help="The tiny shape, under a minute")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="[default: S1-mini's shape]")] = None,
    repository: Annotated[Path | None, typer.Option(help="The same, exported")] = None,
    precision: Annotated[str, typer.Option(help="int8: also the decoder in 8 bits")] = "half",
    batches: str = "1,4,16",
    new_frames: str = "1,8,32,64",
    max_frames: Annotated[int, typer.Option(help="Batch times new frames, at most")] = 128,
    cell_s: Annotated[float, typer.Option(help="Seconds for a size, at the least one turn")] = 1.5,
    utterance: Annotated[int, typer.Option(help="Frames to stream")] = 760,
    plot: Annotated[Path, typer.Option(help="PNG: cost against length")] = ROOT / "out/codec.png",
) -> None:
    """Measure and print."""
    checkpoint, repository = named_or_endless(checkpoint, repository, quick, precision)
    codec = Codec.of(load_codec(load_checkpoint(checkpoint)), repository, cell_s, precision)
    rates = Rates.measured()
    codec.warm_up()
    cells = _measured(codec, _numbers(batches), _numbers(new_frames), max_frames)
    _show(cells, rates)
    name, decode = codec.served_decoder
    stream = streamed(codec, decode, utterance)
    stream.plot(plot, f"{name}, one stream, {machine.describe()}")
    paths = {
        str(n): server_overhead(codec, decode, repository, precision, n, 4 * cell_s) for n in SERVED
    }
    finish(
        _result(cells, codec, rates)
        | _overhead(paths)
        | {
            "precision": precision,
            "length_exponent": stream.exponent,
            "streamed_rtf": stream.seconds[-1] / stream.frames[-1] / codec.frame_s,
            "machine": rates.described(),
        }
    )


def _measured(
    codec: Codec, batches: list[int], new_frames: list[int], max_frames: int
) -> list[CodecCell]:
    cells = []
    for cell in decode_cells(codec, batches, new_frames, max_frames):
        cells.append(cell)
        console.print(f"decode {cell.batch} x {cell.frames} after {cell.history}: {cell.best}")
    return cells + [codec.encode(batch, frames) for batch, frames in ENCODED]


def _overhead(paths: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """What the server adds, as a share of the time in process: of the longest window."""
    longest = paths[str(SERVED[-1])]
    return {"server_overhead": longest["server"] / longest["in_process"] - 1, "server_s": paths}


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _result(cells: list[CodecCell], codec: Codec, rates: Rates) -> dict[str, Any]:
    """The figures of batch 1: of the longest window without history, and the longest recording."""
    served = codec.served_decoder[0]
    single = [c for c in cells if c.batch == 1 and not c.history]
    decoded = max((c for c in single if c.what == "decode"), key=lambda c: c.frames)
    encoded = max((c for c in single if c.what == "encode"), key=lambda c: c.frames)
    encoder = next(iter(codec.encoders))
    snr = codec.snr_db(SECOND)
    return {
        "decode_speedup": decoded.speedup(served),
        "decode_rtf": decoded.rtf(served),
        "decode_frames": decoded.frames,
        "decode_artefact": served,
        "decode_of_matmul": decoded.flops / decoded.seconds[served] / rates.best_multiply(),
        "decode_upstream_rtf": decoded.rtf(UPSTREAM),
        "encode_speedup": encoded.speedup(encoder),
        "encode_rtf": encoded.rtf(encoder),
        "encode_frames": encoded.frames,
        "encode_upstream_rtf": encoded.rtf(UPSTREAM),
        "codes_equal": codec.encoder_is_exact(5 * SECOND),
        "snr_db": snr["half"],
        "served_snr_db": snr[served],
        "cells": [vars(cell) for cell in cells],
    }


def _show(cells: list[CodecCell], rates: Rates) -> None:
    """Print the RTF of every artefact, and how far the best is from upstream and from matmul."""
    for what in ("decode", "encode"):
        rows = [cell for cell in cells if cell.what == what]
        names = list(rows[0].seconds)
        table = Table(
            "batch", "frames", "history", *(f"{n}, RTF" for n in names), "best, times upstream",
            "of matmul's rate", title=what, title_justify="left",
        )  # fmt: skip
        for cell in rows:
            share = cell.flops / cell.seconds[cell.best] / rates.best_multiply()
            table.add_row(
                str(cell.batch), str(cell.frames), str(cell.history),
                *(f"{cell.rtf(n):.2f}" for n in names),
                f"{cell.speedup(cell.best):.2f}", f"{share:.0%}",
            )  # fmt: skip
        console.print(table)
