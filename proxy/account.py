"""One line in the log for each request, and the proxy's own metrics."""

import json
import logging
import time

from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from proxy.load import Load
from proxy.refusals import Refusal

log = logging.getLogger("voicereel.proxy")
http_log = logging.getLogger("voicereel.proxy.http")  # of what reads HTTP, when it fails itself


def _is_own_fault(record: logging.LogRecord) -> bool:
    """Whether it tells more than that bytes were no HTTP, which callers could fill a disk with."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_log.addFilter(_is_own_fault)


class Metrics:
    """What Prometheus reads, beside the server's own. One registry for each proxy."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "voicereel_proxy_requests",
            "Requests that ended, by outcome: done, left (the caller went), refused, failed",
            ("door", "outcome"), registry=registry,
        )  # fmt: skip
        self._refused = Counter(
            "voicereel_proxy_refused", "Requests that the proxy refused, by reason", ("reason",),
            registry=registry,
        )  # fmt: skip
        self._in_flight = Gauge(
            "voicereel_proxy_in_flight", "Inference requests in flight", registry=registry
        )
        self._expected = Gauge(
            "voicereel_proxy_expected_wait_seconds", "That one more request would wait for others",
            registry=registry,
        )  # fmt: skip
        self._ready = Gauge(
            "voicereel_proxy_server_ready", "1: the server takes requests", registry=registry
        )
        for door in ("grpc", "http"):
            for outcome in ("done", "left", "refused", "failed"):
                self._requests.labels(door, outcome)

    def refused(self, reason: str) -> None:
        """Count a request, or a part of a stream, that was refused."""
        self._refused.labels(reason).inc()

    def ended(self, door: str, outcome: str) -> None:
        """Count a request."""
        self._requests.labels(door, outcome).inc()

    def page(self, load: Load, ready: bool) -> bytes:
        """The metrics as Prometheus reads them."""
        self._in_flight.set(load.in_flight)
        self._expected.set(load.longest_expected_s())
        self._ready.set(ready)
        return generate_latest(self.registry)


class Account:
    """What is told of one request; `end` tells it, once.

    Attributes:
        id: The caller's name for it, or "".
        model: That was asked, or "".
        sent: Bytes that came from the caller.
        got: Bytes that went to it.
    """

    def __init__(self, door: str, what: str, metrics: Metrics) -> None:
        self._door, self._what, self._metrics = door, what, metrics
        self.id = self.model = ""
        self.sent = self.got = 0
        self._begin, self._ended = time.monotonic(), False

    def refused(self, refusal: Refusal) -> None:
        """End with a refusal."""
        self.id, self.model = self.id or refusal.id, self.model or refusal.model
        failed = refusal.reason == "connection"
        status = refusal.code.name if self._door == "grpc" else str(refusal.http)
        self.end("failed" if failed else "refused", status, refusal.reason)

    def end(self, outcome: str, status: str, reason: str = "") -> None:
        """Log and count it.

        Args:
            outcome: done, left, refused or failed.
            status: As the caller got it.
            reason: Of a refusal.
        """
        if self._ended:
            return
        self._ended = True
        self._metrics.ended(self._door, outcome)
        if reason:
            self._metrics.refused(reason)
        level = logging.WARNING if outcome == "failed" else logging.INFO
        if log.isEnabledFor(level):
            told = {
                "id": self.id[:128], "door": self._door, "asked": self._what[:200],
                "model": self.model[:200], "status": status, "outcome": outcome,
                "ms": round((time.monotonic() - self._begin) * 1e3, 1),
                "bytes_in": self.sent, "bytes_out": self.got,
            }  # fmt: skip
            log.log(level, json.dumps(told | ({"reason": reason} if reason else {})))
