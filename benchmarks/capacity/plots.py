"""Plots of the simulation."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # without pyplot it needs no display and no backend

from voicereel.capacity import Machine

_BIN_S = 1.0
_TICKS_S = (0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)


def against_load(
    found: dict[str, list[dict[str, float]]], served: Machine, replicas: int, path: Path
) -> None:
    """First audio against load, a line for each policy."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    ax = figure.subplots()
    for policy, rows in found.items():
        ax.plot(
            [r["share"] * 100 for r in rows], [r["p95"] for r in rows], marker="o", label=policy
        )
    best = found["least in flight"]
    ax.plot([r["share"] * 100 for r in best], [r["p50"] for r in best], "k:",
            label="least in flight, median")  # fmt: skip
    ax.set(xlabel="load, % of the streams in real time", ylabel="first audio, p95, s", yscale="log",
           title=f"{replicas} replicas on {served.what}; 8 gateways (simulated)")  # fmt: skip
    ax.legend()
    _finish(figure, ax, path)


def deaths(found: dict[str, Any], at_s: float, path: Path) -> None:
    """First audio by the time of arrival, around the death of replicas."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    ax = figure.subplots()
    for name, outcome in found.items():
        edges = np.arange(8, 38, _BIN_S)
        p95 = [outcome.first_audio(0.95, begin, begin + _BIN_S) for begin in edges]
        label = f"{name}: {outcome.failed} of {len(outcome.requests)} fail"
        ax.plot(edges, np.minimum(p95, 30), label=label)
    ax.axvline(at_s, color="grey", linestyle=":")
    ax.set(xlabel="s; a tenth of the replicas dies at the dotted line, and is back 10 s later",
           ylabel="first audio, p95, s", yscale="log")  # fmt: skip
    ax.legend(fontsize=8)
    _finish(figure, ax, path)


def _finish(figure: Figure, ax: Axes, path: Path) -> None:
    low, high = ax.get_ylim()
    ticks = [tick for tick in _TICKS_S if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
