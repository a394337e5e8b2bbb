"""When a server that has died is started again, and what is told of it."""

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

WITHIN_S = 300  # seconds in which so many restarts are too many
LONGEST_DELAY_S = 30
REASONS = {
    "server": "tritonserver has ended",
    "model": "the process of a model has ended",
    "stopped": "a process was stopped by a signal",
    "hung": "the server answered nobody",
    "start": "a start has failed",
    "proxy": "the proxy has ended",
}
_HEADS = {
    "restarts_total": ("counter", "Restarts by reason."),
    "recovery_seconds": ("gauge", "From the last death to the server's being ready again."),
    "up_since_seconds": ("gauge", "Unix time from which it has served without a break; 0: not."),
    "last_restart_seconds": ("gauge", "Unix time of the last death, by reason; 0: none."),
}


class Restarts:
    """Counts restarts, delays those after a start in vain, and writes the state file.

    Attributes:
        limit: Restarts within `WITHIN_S` seconds; one more is too many.
        counts: Restarts by reason.
    """

    def __init__(
        self, limit: int, state: Path | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit, self.counts = limit, Counter(dict.fromkeys(REASONS, 0))
        self._state, self._clock = state, clock
        self._times: list[float] = []
        self._in_vain = 0  # starts since it has last served
        self._recovery_s, self._up_since, self._last = 0.0, 0.0, ("", 0.0)

    def note(self, reason: str) -> float | None:
        """Count a death.

        Returns:
            Seconds to wait before the next start, or None: that were too many.
        """
        now = self._clock()
        self._times = [each for each in self._times if now - each < WITHIN_S]
        if len(self._times) >= self.limit:
            return None
        self._times.append(now)
        self.counts[reason] += 1
        self._last = reason, time.time()
        self._up_since = 0.0
        self._write()
        in_vain, self._in_vain = self._in_vain, self._in_vain + 1
        return min(2 ** (in_vain - 1), LONGEST_DELAY_S) if in_vain else 0

    def serving(self, recovery_s: float = 0.0) -> None:
        """Tell that it serves, so many seconds after it did not."""
        self._up_since, self._in_vain = time.time(), 0
        self._recovery_s = recovery_s or self._recovery_s
        self._write()

    def text(self) -> str:
        """The state in Prometheus' text format."""
        values = {
            "restarts_total": {f'{{reason="{r}"}}': n for r, n in self.counts.items()},
            "recovery_seconds": {"": round(self._recovery_s, 3)},
            "up_since_seconds": {"": round(self._up_since, 3)},
            "last_restart_seconds": {f'{{reason="{self._last[0]}"}}': round(self._last[1], 3)},
        }
        lines = []
        for name, (kind, meaning) in _HEADS.items():
            full = f"voicereel_supervisor_{name}"
            lines += [f"# HELP {full} {meaning}", f"# TYPE {full} {kind}"]
            lines += [f"{full}{labels} {value}" for labels, value in values[name].items()]
        return "\n".join(lines) + "\n"

    def _write(self) -> None:
        if self._state is None:
            return
        new = self._state.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk must not end what supervises
            new.write_text(self.text(), encoding="utf-8")
            os.replace(new, self._state)
