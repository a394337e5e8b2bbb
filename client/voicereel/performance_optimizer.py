"""Where the time of a synthesis goes, and whether it meets the target.

monitor = PerformanceMonitor()
monitor.start_timer("synthesis")
...
monitor.end_timer("synthesis")
monitor.log_summary()
"""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

TARGET_AUDIO_S, TARGET_WALL_S = 30.0, 8.0
# Half a minute of audio in 8 s is a rate. Less audio is held to the same rate, but a second or two
# say nothing of it: requests have hardly been in flight together then.
MIN_TARGET_AUDIO_S = TARGET_AUDIO_S / 2

logger = logging.getLogger(__name__)


@dataclass
class StageTime:
    """How long a stage took, over all its runs, in seconds."""

    calls: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.total_s / self.calls if self.calls else 0.0


class PerformanceMonitor:
    """Timers by name of a stage; any thread may run a stage of its own beside others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, int], float] = {}
        self._stages: dict[str, StageTime] = defaultdict(StageTime)

    def start_timer(self, name: str) -> None:
        """Begin a stage of this thread; begun again, it is timed from now."""
        with self._lock:
            self._begun[name, threading.get_ident()] = time.perf_counter()

    def end_timer(self, name: str) -> float:
        """End it; returns its seconds.

        Raises:
            ValueError: If this thread has begun no such stage.
        """
        now = time.perf_counter()
        with self._lock:
            begun = self._begun.pop((name, threading.get_ident()), None)
            if begun is None:
                raise ValueError(f"stage {name!r} was not begun: call start_timer({name!r}) first")
            stage, elapsed_s = self._stages[name], now - begun
            stage.calls += 1
            stage.total_s += elapsed_s
            stage.longest_s = max(stage.longest_s, elapsed_s)
        return elapsed_s

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A stage as a `with` block; ended also when it fails."""
        self.start_timer(name)
        try:
            yield
        finally:
            self.end_timer(name)

    @property
    def stages(self) -> dict[str, StageTime]:
        """What was timed so far, a copy, in the order of the first run."""
        with self._lock:
            return {name: StageTime(**vars(stage)) for name, stage in self._stages.items()}

    def summary(self) -> str:
        """All stages as a table."""
        stages = self.stages
        width = max([len("stage"), *map(len, stages)])
        lines = [f"{'stage':{width}}  calls    total s     mean s  longest s"]
        lines += [
            f"{name:{width}}  {s.calls:5}  {s.total_s:9.3f}  {s.mean_s:9.3f}  {s.longest_s:9.3f}"
            for name, s in stages.items()
        ]
        return "\n".join(lines)

    def log_summary(self) -> None:
        """Write the table to the log, a line at a time."""
        for line in self.summary().splitlines():
            logger.info(line)


def allowed_s(audio_s: float) -> float:
    """Seconds in which so much audio must be there: 8 for 30, and in proportion."""
    return TARGET_WALL_S * audio_s / TARGET_AUDIO_S


def meets_target(audio_s: float, wall_s: float) -> bool:
    """Whether a synthesis was fast enough, and long enough to tell."""
    return audio_s >= MIN_TARGET_AUDIO_S and wall_s <= allowed_s(audio_s)
