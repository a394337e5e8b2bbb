"""Times the stages of a synthesis, and tells whether it meets the target.

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

TARGET_AUDIO_S, TARGET_WALL_S = 30.0, 8.0  # VoiceReel's target: so much audio in so much time
# Other lengths are held to the same rate. Below half of that length the rate says little, because
# start-up dominates and few requests have been in flight at a time.
MIN_TARGET_AUDIO_S = TARGET_AUDIO_S / 2

logger = logging.getLogger(__name__)


@dataclass
class StageTime:
    """The duration of a stage over all its runs, in seconds."""

    calls: int = 0
    total_s: float = 0.0
    longest_s: float = 0.0

    @property
    def mean_s(self) -> float:
        return self.total_s / self.calls if self.calls else 0.0


class PerformanceMonitor:
    """Timers of named stages; each thread has its own, and their times are added up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[tuple[str, int], float] = {}
        self._stages: dict[str, StageTime] = defaultdict(StageTime)

    def start_timer(self, name: str) -> None:
        """Start the timer of a stage in this thread, or restart it."""
        with self._lock:
            self._begun[name, threading.get_ident()] = time.perf_counter()

    def end_timer(self, name: str) -> float:
        """Stop the timer of a stage and return its seconds.

        Raises:
            ValueError: If this thread has not started that timer.
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
        """Time a `with` block, also when it raises."""
        self.start_timer(name)
        try:
            yield
        finally:
            self.end_timer(name)

    @property
    def stages(self) -> dict[str, StageTime]:
        """A copy of all times so far, in the order of the first run."""
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
    """Seconds allowed for so much audio: 8 for 30, and in proportion."""
    return TARGET_WALL_S * audio_s / TARGET_AUDIO_S


def meets_target(audio_s: float, wall_s: float) -> bool:
    """Whether a synthesis was fast enough, and long enough to judge."""
    return audio_s >= MIN_TARGET_AUDIO_S and wall_s <= allowed_s(audio_s)
