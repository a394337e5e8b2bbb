"""A collector of OpenTelemetry: OTLP over HTTP, protobuf from Python and JSON from Triton."""

import json
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    """Attributes:
    service: Of the resource.
    trace, id, parent: In hexadecimal; parent "" of a root.
    begin, end: Seconds since 1970.
    events: Seconds since 1970 by name; of several of one name the first.
    """

    service: str
    trace: str
    id: str
    parent: str
    name: str
    begin: float
    end: float
    events: dict[str, float] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)


class Collector:
    """Attributes:
    url: For OTEL_EXPORTER_OTLP_ENDPOINT.
    spans: What came.
    """

    def __init__(self, url: str) -> None:
        self.url, self.spans = url, list[Span]()

    def of(self, trace: str) -> list[Span]:
        return sorted((s for s in self.spans if s.trace == trace), key=lambda span: span.begin)


@contextmanager
def running() -> Iterator[Collector]:
    """A collector on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            collector.spans += _spans(_decoded(body, self.headers["Content-Type"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _decoded(body: bytes, kind: str) -> dict[str, Any]:
    if kind == "application/json":  # ids in hexadecimal, against protobuf's own mapping
        return json.loads(body)
    message = MessageToDict(ExportTraceServiceRequest.FromString(body))
    for resource in message["resourceSpans"]:
        for span in (s for scope in resource["scopeSpans"] for s in scope["spans"]):
            for name in ("traceId", "spanId", "parentSpanId"):
                span[name] = b64decode(span.get(name, "")).hex()
    return message


def _spans(message: dict[str, Any]) -> Iterator[Span]:
    for resource in message["resourceSpans"]:
        service = _attributes(resource["resource"])["service.name"]
        for span in (s for scope in resource["scopeSpans"] for s in scope["spans"]):
            events: dict[str, float] = {}
            for event in span.get("events", []):
                events.setdefault(event["name"], int(event["timeUnixNano"]) / 1e9)
            yield Span(
                service, span["traceId"], span["spanId"], span.get("parentSpanId", ""),
                span["name"], int(span["startTimeUnixNano"]) / 1e9,
                int(span["endTimeUnixNano"]) / 1e9, events, _attributes(span),
            )  # fmt: skip


def _attributes(holder: dict[str, Any]) -> dict[str, Any]:
    return {a["key"]: next(iter(a["value"].values())) for a in holder.get("attributes", [])}
