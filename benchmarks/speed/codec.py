"""The codec against genuine upstream in float32, interleaved; streamed; and through the server.

    python -m benchmarks.codec [--quick] [--precision int8] [--checkpoint DIR --repository DIR]

Upstream cannot decode a window exactly, so its time is that of its whole decode of as many frames
as are new. Tables go to stderr; the last line of stdout is one JSON object.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.prepared import ROOT, prepared
from benchmarks.speed.bounds import Rates
from benchmarks.speed.cells import UPSTREAM, Cell, Codec, decode_cells
from benchmarks.speed.stream import server_overhead, streamed
from families.fish_s1.checkpoint import load_checkpoint, load_codec

SECOND = 22  # frames: a little more than that of audio

console = Console(stderr=True)


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
    if checkpoint is None or repository is None:
        preset = "tiny" if quick else "s1mini"
        checkpoint, repository = prepared(
            preset, f"{preset}-endless", "--endless", int8=precision == "int8"
        )
    genuine = load_codec(load_checkpoint(checkpoint))
    codec = Codec.of(genuine, repository, cell_s, precision == "int8")
    name, decode = codec.served_decoder
    rates = Rates.measured()
    codec.warm_up()
    cells = []
    for cell in decode_cells(codec, _numbers(batches), _numbers(new_frames), max_frames):
        cells.append(cell)
        console.print(f"decode {cell.batch} x {cell.frames} after {cell.history}: {cell.best}")
    for batch, frames in ((1, SECOND), (1, 5 * SECOND), (4, SECOND), (16, SECOND // 2)):
        cells.append(codec.encode(batch, frames))
    _show(cells, rates)
    curve = streamed(codec, decode, utterance)
    curve.plot(plot, f"{name}, one stream, {machine.describe()}")
    sizes = (8, 64)
    paths = {n: server_overhead(codec, decode, repository, precision, n, 4 * cell_s) for n in sizes}
    result = _result(cells, codec, rates) | {
        "server_overhead": paths[sizes[-1]]["server"] / paths[sizes[-1]]["in_process"] - 1,
        "server_s": {str(n): found for n, found in paths.items()},
        "precision": precision,
        "length_exponent": curve.exponent,
        "streamed_rtf": curve.seconds[-1] / curve.frames[-1] / codec.frame_s,
        "machine": rates.described(),
        "commit": machine.commit(),
    }
    print(json.dumps(result))


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def _result(cells: list[Cell], codec: Codec, rates: Rates) -> dict[str, Any]:
    """Figures of one row: the longest window without history, the longest recording."""
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


def _show(cells: list[Cell], rates: Rates) -> None:
    """RTF of every artefact; how far the best is from upstream and from the arithmetic."""
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
