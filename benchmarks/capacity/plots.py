"""Plots of the simulation."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.report import new_figure
from voicereel.capacity import Machine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BIN_S = 1.0
_TICKS_S = (0.3, 0.4, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10)


def against_load(
    found: dict[str, list[dict[str, float]]], served: Machine, replicas: int, path: Path
) -> None:
    """First audio against load, a line for each policy."""
    figure, ax = _panel()
    for policy, rows in found.items():
        ax.plot(
            [r["share"] * 100 for r in rows], [r["p95"] for r in rows], marker="o", label=policy
        )
    best = found["least in flight"]
    ax.plot([r["share"] * 100 for r in best], [r["p50"] for r in best], "k:",
            label="least in flight, median")  # fmt: skip
    ax.set(xlabel="load, % of the frames that full slots make", ylabel="first audio, p95, s",
           title=f"{replicas} replicas on {served.what}; 8 gateways (simulated)",
           yscale="log")  # fmt: skip
    ax.legend()
    _finish(figure, ax, path)


def deaths(found: dict[str, Any], at_s: float, path: Path) -> None:
    """First audio by the time of arrival, around the death of replicas."""
    figure, ax = _panel()
    for name, outcome in found.items():
        edges = np.arange(4, 30, _BIN_S)
        p95 = [outcome.first_audio(0.95, begin, begin + _BIN_S) for begin in edges]
        label = f"{name}: {outcome.failed} of {len(outcome.requests)} fail"
        ax.plot(edges, np.minimum(p95, 30), label=label)
    ax.axvline(at_s, color="grey", linestyle=":")
    ax.set(xlabel="s; a tenth of the replicas dies at the dotted line, and is back 10 s later",
           ylabel="first audio, p95, s", yscale="log")  # fmt: skip
    ax.legend(fontsize=8)
    _finish(figure, ax, path)


def validation(rows: list[dict[str, float]], tolerance: float, path: Path) -> None:
    """Real first audio beside simulated, of each load."""
    figure, ax = _panel()
    places = np.arange(len(rows))
    for q, colour, by in ((50, "tab:blue", -0.15), (95, "tab:orange", 0.15)):
        real = [row[f"real_p{q}"] for row in rows]
        ax.bar(places + by, real, width=0.28, color=colour, label=f"p{q}, real servers",
               yerr=[tolerance * value for value in real], ecolor="grey", capsize=3)  # fmt: skip
        ax.plot(places + by, [row[f"simulated_p{q}"] for row in rows], "k_", markersize=22,
                markeredgewidth=2, label="simulated" if q == 95 else None)  # fmt: skip
    what = (
        "servers: {servers:g}\n{requests_per_s:.1f} requests a second".format(**r) for r in rows
    )
    ax.set_xticks(places, list(what))
    ax.set(
        ylabel="first audio, s",
        title=f"The same arrivals, real and simulated; grey: {tolerance:.0%} of the real",
    )
    ax.legend()
    ax.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=80)


def _panel() -> "tuple[Figure, Axes]":
    figure = new_figure(10, 4)
    return figure, figure.subplots()


def _finish(figure: "Figure", ax: "Axes", path: Path) -> None:
    low, high = ax.get_ylim()
    ticks = [tick for tick in _TICKS_S if low <= tick <= high]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
