"""How a benchmark reports: progress and tables on stderr, one JSON object last on stdout."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
HISTORY = RESULTS / "history.jsonl"

console = Console(stderr=True)


def finish(result: dict[str, Any], record: bool = False) -> None:
    """Print the result as the last line of stdout, with machine and commit beside it.

    Args:
        result: For JSON. A `machine` in it goes before the one-line description.
        record: Whether to append it to results/history.jsonl as well.
    """
    from benchmarks import machine  # imports torch, which the demo does without

    line = json.dumps({"machine": machine.describe(), **result, "commit": machine.commit()})
    if record:
        with HISTORY.open("a", encoding="utf-8") as history:
            history.write(line + "\n")
    print(line)


def new_figure(width: float, height: float) -> "Figure":
    """An empty picture of so many inches. Without pyplot it needs no display and no backend."""
    from matplotlib.figure import Figure  # takes a second

    return Figure(figsize=(width, height), layout="constrained")
