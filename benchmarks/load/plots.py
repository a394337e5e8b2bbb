"""Plots of the load sweep and the cost curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.answers import GAPS_MS, gapless
from benchmarks.report import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmarks.load.sweep import Row

LOADS = {
    "throughput": "Audio made per second of wall time, and how long callers wait, against load.",
    "listener": "What listeners who play at once hear: silence, and answers without a longer gap.",
    "batches": "Mean batch sizes of the LLaMA stage and the decoder, against load.",
    "time": "Where time goes: CPU seconds by process, and the way to the first audio.",
}
_DOORS = {"fish_tts_stream": "streaming", "fish_tts": "whole answers"}
_FIRST_AUDIO = {  # column of a row -> label
    "prompt_s": "prompt",
    "first_window_s": "waiting, prefill, first frames",
    "decoder_queue_s": "decoder, waiting",
    "decoder_compute_s": "decoder",
}
_CPU = ("fish_llama", "fish_decoder", "tritonserver", "others")


def loads(rows: Sequence[Row], folder: Path) -> None:
    """Draw the plots of a sweep, PNG files named as in `LOADS`."""
    drawn = {"throughput": _throughput, "listener": _listener, "batches": _batches, "time": _time}
    for name, draw in drawn.items():
        figure = new_figure(12, 4)
        draw(figure, rows)
        figure.savefig(folder / f"{name}.png", dpi=80)


def cost(series: dict[str, Any], folder: Path, name: str) -> None:
    """Draw the cost curves, and memory by round, into `name`.png."""
    curves = series["curves"]
    figure = new_figure(3.2 * (len(curves) + 1), 3.4)
    *axes, memory = figure.subplots(1, len(curves) + 1)
    for axis, curve in zip(axes, curves, strict=True):
        axis.plot(curve["sizes"], curve["seconds"], "o-", color="tab:blue")
        axis.set(title=curve["name"], xlabel=curve["unit"], xlim=(0, None), ylim=(0, None))
        axis.set_ylabel("s", color="tab:blue")
        other = axis.twinx()
        other.plot(curve["sizes"], curve["memory_mib"], "s:", color="tab:orange", markersize=3)
        other.set_ylabel("MiB after it", color="tab:orange")
        other.set_ylim(0, 1.2 * max(curve["memory_mib"]))
    memory.plot(range(1, len(series["memory_mib"]) + 1), series["memory_mib"], "s:", c="tab:orange")
    memory.set(title="memory", xlabel="equal rounds", ylabel="MiB")
    memory.set_ylim(0, 1.2 * max(series["memory_mib"]))
    figure.savefig(folder / f"{name}.png", dpi=80)


def _closed(rows: Sequence[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model and row["closed"]]


def _open(rows: Sequence[Row], model: str) -> list[Row]:
    return [row for row in rows if row["model"] == model and not row["closed"]]


def _throughput(figure: Figure, rows: Sequence[Row]) -> None:
    speed, closed, opened = figure.subplots(1, 3)
    for model, label in _DOORS.items():
        mine = _closed(rows, model)
        speed.plot(_levels(mine), [1 / row["rtf"] for row in mine], "o-", label=label)
    for axis, pick in ((closed, _closed), (opened, _open)):
        _waits(axis, pick(rows, "fish_tts_stream"), "ttfa_s", "tab:blue", "first audio, streaming")
        _waits(axis, pick(rows, "fish_tts"), "latency_s", "tab:orange", "whole answer")
        axis.set(ylabel="s (p50 line, p95 dotted)", ylim=(0, None))
    speed.set(xlabel="in flight", ylabel="seconds of audio per second", ylim=(0, None))
    closed.set(xlabel="in flight", title="closed loop")
    opened.set(xlabel="requests per second", title="open loop, Poisson")
    for axis in (speed, closed, opened):
        axis.legend()
        axis.grid(alpha=0.3)


def _listener(figure: Figure, rows: Sequence[Row]) -> None:
    axes = figure.subplots(1, 2)
    for pick, label, axis in (
        (_closed, "in flight", axes[0]),
        (_open, "requests per second", axes[1]),
    ):
        mine = pick(rows, "fish_tts_stream")
        for ms in GAPS_MS:  # a sweep of an earlier version does not have them
            shares = [100 * row.get(gapless(ms), math.nan) for row in mine]
            axis.plot(_levels(mine), shares, "o-", label=f"% without a gap over {ms} ms")
        silence = [100 * row["underrun_s"] / row["audio_s"] for row in mine]
        axis.plot(_levels(mine), silence, "ks:", label="silence, % of the audio")
        axis.set(xlabel=label, ylim=(0, None))
        axis.legend()
        axis.grid(alpha=0.3)


def _waits(axis: Axes, rows: list[Row], name: str, colour: str, label: str) -> None:
    axis.plot(_levels(rows), [r[f"{name}_p50"] for r in rows], "o-", color=colour, label=label)
    axis.plot(_levels(rows), [r[f"{name}_p95"] for r in rows], "o:", color=colour)


def _batches(figure: Figure, rows: Sequence[Row]) -> None:
    for axis, stage in zip(figure.subplots(1, 2), ("llama", "decoder"), strict=True):
        for model, label in _DOORS.items():
            mine = _closed(rows, model)
            axis.plot(_levels(mine), [row[f"{stage}_batch"] for row in mine], "o-", label=label)
        axis.set(xlabel="in flight", ylabel="mean batch", title=f"fish_{stage}", ylim=(0, None))
        axis.legend()
        axis.grid(alpha=0.3)


def _time(figure: Figure, rows: Sequence[Row]) -> None:
    cpu, first = figure.subplots(1, 2)
    mine = _closed(rows, "fish_tts_stream")
    places = [f"{level:g}" for level in _levels(mine)]
    stacks = {n: [row[f"cpu_s_{n}"] / row["audio_s"] for row in mine] for n in _CPU}
    _stack(cpu, places, stacks)
    cpu.set(xlabel="in flight", ylabel="CPU seconds per second of audio")
    parts = {label: [row[column] for row in mine] for column, label in _FIRST_AUDIO.items()}
    known = [sum(values) for values in zip(*parts.values(), strict=True)]
    rest = [max(0.0, row["ttfa_s_mean"] - sum_) for row, sum_ in zip(mine, known, strict=True)]
    _stack(first, places, parts | {"rest": rest})
    first.set(xlabel="in flight", ylabel="s to first audio, means")


def _stack(axis: Axes, places: list[str], parts: dict[str, list[float]]) -> None:
    below = [0.0] * len(places)
    for label, values in parts.items():
        axis.bar(places, values, bottom=below, label=label)
        below = [a + b for a, b in zip(below, values, strict=True)]
    axis.legend()


def _levels(rows: Sequence[Row]) -> list[float]:
    return [row["level"] for row in rows]
