"""The results of a visit: a line for each, written as soon as it is known.

A visit can be cut off at any moment. A line that has been written stays.
"""

import json
from pathlib import Path
from typing import Any, TextIO

FILE_NAME = "results.jsonl"
OUTCOME = "outcome"  # of a step: state, seconds, limit_s, why
Found = dict[str, dict[str, Any]]  # by step, by the result's name


class Results:
    """What one step finds."""

    def __init__(self, out: Path, step: str, progress: TextIO | None = None) -> None:
        """Args:
        out: Folder of the visit's results.
        step: Whose results they are.
        progress: Where to show them too.
        """
        self._path, self._step, self._progress = out / FILE_NAME, step, progress

    def put(self, name: str, value: Any) -> None:
        """Write a result down; put again, it replaces the one before.

        Args:
            name: Of the result.
            value: Anything that JSON can say.
        """
        line = json.dumps({"step": self._step, "name": name, "value": value})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        if self._progress is not None:
            shown = json.dumps(_rounded(value))
            print(f"  {name}: {shown[:200]}", file=self._progress, flush=True)


def read(out: Path) -> Found:
    """All results that a visit has written so far; a line that was cut off is left out."""
    found: Found = {}
    path = out / FILE_NAME
    for line in path.read_text("utf-8").splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        found.setdefault(entry["step"], {})[entry["name"]] = entry["value"]
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list) else value
