"""Draws what was measured: streams, decode steps, codec windows, the way to the first audio."""

import importlib.util
from typing import Any

from benchmarks.gpu_visit.results import Results, read
from benchmarks.gpu_visit.visit import Skipped, Visit

FILE_NAME = "visit.png"


def run(visit: Visit, results: Results) -> None:
    """Write one picture of four panels; what was not measured leaves its panel empty."""
    if importlib.util.find_spec("matplotlib") is None:
        raise Skipped("needs matplotlib, which neither the pack nor this machine has")
    from benchmarks import first_audio  # slow to import
    from benchmarks.report import new_figure

    found = read(visit.out)
    figure = new_figure(13, 7.6)
    (streams, steps), (windows, way) = figure.subplots(2, 2)
    _streams(streams, found.get("serve", {}).get("streams", []))
    _steps(steps, found.get("llama", {}).get("steps", []))
    _windows(windows, found.get("codec", {}).get("decode", []))
    if hops := found.get("serve", {}).get("first_audio"):
        first_audio.bars(way, {"": hops})
    card = found.get("card", {}).get("card", {}).get("name", "an unknown card")
    figure.suptitle(f"{card}, {visit.preset}", fontsize=9)
    figure.savefig(visit.out / FILE_NAME, dpi=110)
    results.put("file", FILE_NAME)


def _streams(axis: Any, rows: list[dict]) -> None:
    counts = [row["streams"] for row in rows]
    for name in ("ttfa_s_p50", "ttfa_s_p95"):
        label = f"first audio, {name[-3:]}"
        axis.plot(counts, [row[name] for row in rows], "o-", label=label)
    _frame(axis, "streams", "s")


def _steps(axis: Any, rows: list[dict]) -> None:
    for precision in dict.fromkeys(row["precision"] for row in rows):
        of = [row for row in rows if row["precision"] == precision]
        batches = [row["batch"] for row in of]
        (drawn,) = axis.plot(batches, [row["step_ms"] for row in of], "o-", label=precision)
        bounds = [row["bound_ms"] for row in of]
        axis.plot(batches, bounds, ":", color=drawn.get_color())
    _frame(axis, "batch (dotted: bound)", "ms a decode step")


def _windows(axis: Any, rows: list[dict]) -> None:
    for batch in dict.fromkeys(row["batch"] for row in rows):
        of = [row for row in rows if row["batch"] == batch and not row["history"]]
        axis.plot([r["new"] for r in of], [r["rtf"] for r in of], "o-", label=f"batch {batch}")
    _frame(axis, "frames of a window", "RTF of the decoder")


def _frame(axis: Any, x: str, y: str) -> None:
    axis.set(xlabel=x, ylabel=y, ylim=(0, None))
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=8)
