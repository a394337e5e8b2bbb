"""Spans: joined from the caller to the decoder, and nothing at all unless asked for."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from benchmarks.observed import collector
from benchmarks.observed.collector import Collector, Span
from benchmarks.observed.trace import to_first_audio
from gateway.traces import Traces
from launch import traces
from launch.server import Server
from support.fake_server import FakeServer, Refusal
from support.gateway import SPEECH, Gateway, chunks, running, tone
from support.launched import wait_until
from voicereel import Caller, Client, ConfigurationError

PROJECT = Path(__file__).resolve().parents[2]
CALLER = "00f067aa0ba902b7"
TRIES = 6


@pytest.fixture(scope="module")
def collected() -> Iterator[Collector]:
    """A collector, and the standard variables that name it."""
    with collector.running() as found, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield found


def speak(gateway: Gateway, trace: str, **fields: object) -> int:
    headers = {"traceparent": f"00-{trace}-{CALLER}-01", "tracestate": "a=b"}
    return gateway.http.post("/v1/audio/speech", json=SPEECH | fields, headers=headers).status_code


def test_spans_go_on_from_the_callers(collected: Collector, voices: Path) -> None:
    with FakeServer() as fake:
        fake.answer = lambda _: chunks(tone(0.5))
        with running(fake.url, voices) as gateway:
            trace = secrets.token_hex(16)
            assert speak(gateway, trace) == 200
            gateway.http.get("/health")
        [door, stream] = collected.of(trace)  # the gateway has ended, so all have left
        sent = dict(fake.metadata)
    assert (door.name, door.parent) == ("POST /v1/audio/speech", CALLER)
    assert door.attributes["http.response.status_code"] == "200" and "first audio" in door.events
    assert (stream.name, stream.parent, stream.service) == ("stream", door.id, "voicereel-gateway")
    assert stream.attributes["server.address"] == fake.url and "first chunk" in stream.events
    assert sent["traceparent"] == f"00-{trace}-{stream.id}-01" and sent["tracestate"] == "a=b"
    assert all(span.trace == trace for span in collected.spans)  # /health has none


def test_a_server_that_is_passed_over_has_a_span_of_its_own(
    collected: Collector, voices: Path
) -> None:
    def full(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: overloaded: full")
        yield

    with FakeServer() as one, FakeServer() as other:
        one.answer, other.answer = full, full
        with running(f"{one.url},{other.url}", voices) as gateway:
            trace = secrets.token_hex(16)
            assert speak(gateway, trace) == 429
    [door, *attempts] = collected.of(trace)
    assert [span.parent for span in attempts] == [door.id] * 2
    assert {span.attributes["server.address"] for span in attempts} == {one.url, other.url}


@pytest.mark.server
@pytest.mark.slow
def test_one_trace_from_the_caller_to_the_decoder(
    collected: Collector, repository: Path, voices: Path
) -> None:
    """Several, since Triton loses some spans (docs/traces.md)."""
    streamed, unary = ([secrets.token_hex(16) for _ in range(TRIES)] for _ in range(2))
    chain = ["POST /v1/audio/speech", "stream", "InferRequest", "fish_tts_stream"]
    models = ["fish_prompt", "fish_llama", "fish_decoder"]

    def whole(of: list[str], *names: str) -> list[list[Span]]:
        found = [collected.of(trace) for trace in of]
        return [spans for spans in found if {*names} <= {span.name for span in spans}]

    with Server(repository, flags=traces.flags()) as server:
        with running(server.grpc_url, voices) as gateway:
            for trace in streamed:
                assert speak(gateway, trace, voice="default", max_new_tokens=24) == 200
        with Client(server.grpc_url, timeout_s=60) as client:
            client.synthesize("Nobody asked for a trace.", max_new_tokens=8)
            for trace in unary:
                with Caller("unary", (("traceparent", f"00-{trace}-{CALLER}-01"),)).active():
                    client.synthesize("Hello.", max_new_tokens=8)
        wait_until(lambda: whole(unary, "fish_tts", "InferRequest", "fish_tts_stream", *models))
        wait_until(lambda: whole(streamed, *chain, *models))
    for spans in whole(streamed, *chain, *models):
        by_name: dict[str, Span] = {}
        for span in spans:
            by_name.setdefault(span.name, span)
        parents = [CALLER, *(by_name[name].id for name in chain)]
        assert [by_name[name].parent for name in chain] == parents[:-1]
        for model in models:
            assert by_name[model].parent == by_name["fish_tts_stream"].id
            assert by_name[model].service == "voicereel-server"
    hops = [list(to_first_audio(spans).values()) for spans in whole(streamed, *chain, *models)]
    assert any(times == sorted(times) and 0 < times[-1] < 60 for times in hops)
    parents_of_doors = []
    for spans in whole(unary, "fish_tts", "InferRequest", "fish_tts_stream", *models):
        by_id = {span.id: span.name for span in spans}
        behind = {by_id.get(span.parent) for span in spans if span.name in models}
        assert behind == {"fish_tts_stream"}
        doors = [span for span in spans if span.name == "InferRequest"]
        parents_of_doors.append([by_id.get(door.parent, door.parent) for door in doors])
    assert [CALLER, "fish_tts"] in parents_of_doors
    roots = {span.trace for span in collected.spans if span.name == "fish_tts"}
    assert roots <= {*unary}  # the call without a traceparent has none


@pytest.mark.slow
def test_nothing_is_imported_unless_asked_for() -> None:
    code = (
        "import sys, gateway.app\n"
        "from gateway.traces import Traces\n"
        "asked = {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://127.0.0.1:9'}\n"
        "for given in ({}, asked | {'OTEL_SDK_DISABLED': 'true'}, asked):\n"
        "    Traces(given)\n"
        "    print('opentelemetry' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'client'}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="OTEL_TRACES_EXPORTER is 'zipkin', expected otlp"):
        Traces({"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(ConfigurationError, match="PROTOCOL is 'grpc', expected http/protobuf"):
        Traces({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigurationError, match=r'pip install "voicereel\[trace\]"'):
        Traces({"OTEL_TRACES_EXPORTER": "otlp"})


def test_triton_is_told_by_the_same_variables() -> None:
    assert traces.flags({}) == ()
    flags = traces.flags({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"})
    assert "--trace-config=opentelemetry,url=http://c:4318/v1/traces" in flags
    own = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x", "OTEL_SERVICE_NAME": "tts"}
    assert "--trace-config=opentelemetry,url=http://c/x" in traces.flags(own)
    assert "--trace-config=opentelemetry,resource=service.name=tts" in traces.flags(own)
    assert traces.flags(own | {"OTEL_SDK_DISABLED": "true"}) == ()
