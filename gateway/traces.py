"""Spans of OpenTelemetry, if the standard variables ask for them; else nothing is imported.

A request's span goes on from the caller's `traceparent` (W3C), and the server's spans from that of
the attempt to stream from it.
"""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from voicereel import ConfigurationError

_FIELDS = ("traceparent", "tracestate")
_PASSABLE = re.compile(r"[\x20-\x7e]{1,512}")  # as metadata of gRPC, which refuses other letters
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_S = 5  # that a stopping gateway gives the collector for the last spans
Metadata = tuple[tuple[str, str], ...]


class Span:
    """A span, or what stands for one where none is recorded.

    Attributes:
        context: What is passed on: `traceparent`, and `tracestate` if there is one.
    """

    def __init__(self, context: Metadata, recorded: Any = None) -> None:
        self.context, self._recorded = context, recorded

    def event(self, name: str) -> None:
        """Mark this moment."""
        if self._recorded is not None:
            self._recorded.add_event(name)

    def note(self, **attributes: str | int | float) -> None:
        """Set attributes; a name's `__` stands for a dot."""
        if self._recorded is not None:
            for name, value in attributes.items():
                self._recorded.set_attribute(name.replace("__", "."), value)

    def failed(self, why: str) -> None:
        """Mark it as an error."""
        if self._recorded is not None:
            from opentelemetry.trace import Status, StatusCode

            self._recorded.set_status(Status(StatusCode.ERROR, why))


class Traces:
    """Makes spans; may be shared by threads."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Read the variables.

        Raises:
            ConfigurationError: If they ask for what is not there.
        """
        self._provider = _provider(environment) if _asked_for(environment) else None

    @contextmanager
    def span(self, name: str, kind: str, parent: Metadata) -> Iterator[Span]:
        """Record a span while the context lasts.

        Args:
            name: Of the span.
            kind: SERVER or CLIENT.
            parent: The context to go on from, as `context_of` reads it.
        """
        if self._provider is None:
            yield Span(parent)
            return
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        tracer = self._provider.get_tracer("voicereel.gateway")
        recorded = tracer.start_span(name, propagator.extract(dict(parent)), SpanKind[kind])
        passed: dict[str, str] = {}
        if recorded.is_recording():  # Triton records whatever has a context, sampled or not
            propagator.inject(passed, set_span_in_context(recorded))
        try:
            yield Span(tuple(passed.items()), recorded)
        finally:
            recorded.end()

    def close(self) -> None:
        """Send what has not been sent; waits a little for a collector that does not answer."""
        if self._provider is not None:
            flush = threading.Thread(target=self._provider.shutdown, daemon=True)
            flush.start()
            flush.join(_FLUSH_S)


def context_of(headers: Mapping[str, str]) -> Metadata:
    """The trace of a request, as its headers have it."""
    found = ((name, headers.get(name, "")) for name in _FIELDS)
    return tuple((name, value) for name, value in found if _PASSABLE.fullmatch(value))


def _asked_for(environment: Mapping[str, str]) -> bool:
    exporter = environment.get("OTEL_TRACES_EXPORTER", "")
    if exporter not in ("", "otlp", "none"):
        raise ConfigurationError(f"OTEL_TRACES_EXPORTER is {exporter!r}, expected otlp or none")
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    return exporter == "otlp" or any(environment.get(name) for name in _ENDPOINTS)


def _provider(environment: Mapping[str, str]) -> Any:
    for name in _PROTOCOLS:
        if environment.get(name, "http/protobuf") != "http/protobuf":
            raise ConfigurationError(f"{name} is {environment[name]!r}, expected http/protobuf")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError(
            f"the variables OTEL_* ask for traces, but {error.name} is not installed: "
            'pip install "voicereel[trace]"'
        ) from None
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "voicereel-gateway"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
