"""The dashboard's panels as a picture, drawn from the answers of Prometheus."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.observed.queries import Query
from benchmarks.report import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS, _LONGEST_LEGEND = 4, 26
_UNITS = {"s": "s", "reqps": "a second", "ops": "a second", "percentunit": "share", "bytes": "MiB"}
_SCALES = {"bytes": 2**-20}
Answers = Mapping[Query, list[dict[str, Any]]]


def panels(answers: Answers, begin: float, title: str, path: Path) -> None:
    """Draw a panel for each of the dashboard's that has an answer.

    Args:
        answers: Series by query, as `Prometheus.over` gives them.
        begin: The time that the pictures call 0, in seconds since 1970.
        title: Above all panels.
        path: The PNG file.
    """
    names = list(dict.fromkeys(query.panel for query, series in answers.items() if series))
    rows = math.ceil(len(names) / _COLUMNS)
    figure = new_figure(4.6 * _COLUMNS, 2.7 * rows)
    figure.suptitle(title)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).flatten()
    for ax, name in zip(axes, names, strict=False):
        _draw(ax, name, {query: s for query, s in answers.items() if query.panel == name}, begin)
    for ax in axes[len(names) :]:
        ax.axis("off")
    figure.savefig(path, dpi=75)


def _draw(ax: "Axes", name: str, answers: Answers, begin: float) -> None:
    for query, series in answers.items():
        scale = _SCALES.get(query.unit, 1)
        for one in (s for s in series if any(v != "NaN" for _, v in s["values"])):
            times = [float(time) - begin for time, _ in one["values"]]
            values = [scale * float(value) for _, value in one["values"]]
            label = query.name(one["metric"])[:_LONGEST_LEGEND]
            ax.plot(times, values, label=label, linewidth=1.3)
        ax.set(ylabel=_UNITS.get(query.unit, ""))
    ax.set_title(name, fontsize=10)
    ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
    ax.grid(alpha=0.3)
    ax.legend(fontsize=6, loc="upper left")
