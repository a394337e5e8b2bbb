"""What a request cost, and what its listener heard of it."""

import logging
import time
from dataclasses import dataclass, field

from gateway.listener import Listener
from gateway.metrics import Metrics

log = logging.getLogger("voicereel.gateway")


@dataclass
class Account:
    """Times of one request.

    Attributes:
        request_id: Of the answer's X-Request-Id.
        door: What was called, such as "speech".
        model: The model's name as it was asked for.
        format: The audio's format.
        metrics: Where it is counted.
        first_s: Seconds until the first audio; None before it.
        audio_s: Seconds of audio so far.
        listener: Plays it.
    """

    request_id: str
    door: str
    model: str
    format: str
    metrics: Metrics
    first_s: float | None = None
    audio_s: float = 0.0
    listener: Listener = field(default_factory=Listener)
    _begin: float = field(default_factory=lambda: time.monotonic())

    @property
    def wall_s(self) -> float:
        return time.monotonic() - self._begin

    def arrived(self, audio_s: float) -> None:
        """Count audio that came now; `audio_s`: all of it so far."""
        now = self.wall_s
        if self.first_s is None:
            self.first_s = now
        self.listener.hears(now, audio_s - self.audio_s)
        self.audio_s = audio_s

    def ended(self, outcome: str) -> None:
        """Log and count the request: "done", "left", or the code of its error."""
        labels = (self.door, self.model, self.format)
        times = (self.first_s, self.wall_s, self.audio_s, self.listener.underrun_s)
        self.metrics.ended(labels, outcome, *times)
        first = "none" if self.first_s is None else f"{self.first_s:.3f} s"
        log.info(
            "%s %s %s: %s %.2f s in %.2f s, first %s, underrun %.2f s (%s)",
            self.request_id, self.door, outcome, self.format, self.audio_s, self.wall_s, first,
            self.listener.underrun_s, self.model,
        )  # fmt: skip
