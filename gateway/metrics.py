"""Prometheus metrics: what listeners hear, and what is refused."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

disable_created_metrics()  # a time stamp beside every series, which nothing here asks for

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_RTF = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 5)
# Shares of requests without a gap over 50, 100, 200 ms can be read off.
_UNDERRUN = (0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LABELS = ("door", "model", "format")


class Metrics:
    """One registry for each gateway.

    `model` is the name that was asked for, one of the few that there are.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"voicereel_gateway_{name}", meaning, _LABELS, buckets=buckets,
                             registry=registry)  # fmt: skip

        self._first = histogram("first_audio_seconds", "Until the first audio left", _SECONDS)
        self._rtf = histogram("real_time_factor", "Seconds for a second of audio", _RTF)
        self._underrun = histogram(
            "underrun_seconds", "That a listener who plays at once would have waited", _UNDERRUN
        )
        self._audio = Counter(
            "voicereel_gateway_audio_seconds", "Audio sent", _LABELS, registry=registry
        )
        self._requests = Counter(
            "voicereel_gateway_requests", "Requests for speech that ended: done, left, or an error",
            (*_LABELS, "outcome"), registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "voicereel_gateway_refused", "Requests answered by an error, by its code",
            ("code",), registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "voicereel_gateway_in_flight", "Requests being spoken", registry=registry
        )
        self._servers = Gauge(
            "voicereel_gateway_server_in_flight", "Streams by tritonserver", ("server",),
            registry=registry,
        )  # fmt: skip

    def ended(
        self, labels: tuple[str, str, str], outcome: str, first_s: float | None, wall_s: float,
        audio_s: float, underrun_s: float,
    ) -> None:  # fmt: skip
        """Count a request whose listener heard `audio_s` seconds of audio."""
        self._requests.labels(*labels, outcome).inc()
        if first_s is None:
            return
        self._first.labels(*labels).observe(first_s)
        self._audio.labels(*labels).inc(audio_s)
        if outcome == "done" and audio_s:
            self._rtf.labels(*labels).observe(wall_s / audio_s)
            self._underrun.labels(*labels).observe(underrun_s)

    def refused(self, code: str) -> None:
        """Count an answer that is an error."""
        self._refused.labels(code).inc()

    def page(self, in_flight: int, servers: dict[str, int]) -> tuple[bytes, str]:
        """The metrics as Prometheus reads them, and their content type.

        Args:
            in_flight: Requests being spoken now.
            servers: Streams in flight by the address of the server.
        """
        self._in_flight.set(in_flight)
        self._servers.clear()
        for url, count in servers.items():
            self._servers.labels(url).set(count)
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
