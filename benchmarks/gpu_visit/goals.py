"""What a GPU shall do with S1-mini's shape, and whether a visit found that it does.

The goals are for one H100 or H200; the tiny shape and a CPU meet or miss them without meaning.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_visit.results import Found


@dataclass(frozen=True)
class Goal:
    """Attributes:
    name: What is measured, with its unit.
    limit: To be kept.
    of: The figure in a visit's results, None where it was not measured.
    least: Whether more is better.
    """

    name: str
    limit: float
    of: Callable[[Found], float | None]
    least: bool = False

    def verdict(self, found: Found) -> tuple[float | None, str]:
        """The figure, and whether it meets the goal."""
        value = self.of(found)
        if value is None:
            return None, "not measured"
        met = value >= self.limit if self.least else value <= self.limit
        return value, "met" if met else "not met"


def _row(step: str, table: str, name: str, **where: Any) -> Callable[[Found], float | None]:
    """A figure of the first row of a table in which these values stand."""

    def of(found: Found) -> float | None:
        for row in found.get(step, {}).get(table, []):
            if all(row.get(key) == value for key, value in where.items()):
                return row.get(name)
        return None

    return of


def _value(step: str, table: str, name: str) -> Callable[[Found], float | None]:
    return lambda found: found.get(step, {}).get(table, {}).get(name)


def _underruns(found: Found) -> float | None:
    rows = found.get("serve", {}).get("streams", [])
    return sum(row["underruns"] for row in rows) if rows else None


def _decoder_db(found: Found) -> float | None:
    """Of the precision that is served; random weights lose more than a trained voice's."""
    noise = _row("codec", "kernels", "noise")(found)
    return None if noise is None else -20 * math.log10(max(noise, 1e-9))


_STEP = {"precision": "half"}
GOALS = (
    Goal("first audio alone, s", 0.040, _value("serve", "single_stream", "ttfa_s")),
    Goal("first audio p50 at 32, s", 0.150, _row("serve", "streams", "ttfa_s_p50", streams=32)),
    Goal("first audio p50 at 64, s", 0.250, _row("serve", "streams", "ttfa_s_p50", streams=64)),
    Goal("audio s per s at 64", 250, _row("serve", "streams", "audio_s_per_s", streams=64), True),
    Goal("the brief's workload, s", 0.2, _value("serve", "workload", "wall_s")),
    Goal("underruns, up to 64 streams", 0, _underruns),
    Goal("decode step at 1, ms", 2.0, _row("llama", "steps", "step_ms", batch=1, **_STEP)),
    Goal("frames/s at 64", 15000, _row("llama", "steps", "frames_per_s", batch=64, **_STEP), True),
    Goal("step, times its bound, at 1", 3, _row("llama", "steps", "ratio", batch=1, **_STEP)),
    Goal("step, times its bound, at 64", 2, _row("llama", "steps", "ratio", batch=64, **_STEP)),
    Goal("decoder, dB from float32", 40, _decoder_db, True),
)
