"""One request through gateway and server, as its spans tell it, drawn as a waterfall.

    python -m benchmarks.observed.trace [--repository DIR] [--picture FILE]

A real server and a real gateway send their spans to a collector in this process. The last line on
stdout is one JSON object with the seconds of each hop to the first audio; all else goes to stderr.
"""

import http.client
import json
import os
import secrets
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.demo.run import SCRIPT
from benchmarks.load.gateway import gateway
from benchmarks.observed import collector
from benchmarks.observed.collector import Span
from benchmarks.prepared import PATIENCE_S, ROOT, prepared
from benchmarks.report import console, finish, new_figure
from launch import traces
from launch.server import Server
from voicereel import Client

_CALLER = "00f067aa0ba902b7"  # id of the span of a caller, who has one of his own
_COLOURS = {"voicereel-gateway": "tab:orange", "voicereel-server": "tab:blue"}
_DELAY_MS = 200  # between two messages to the collector
_PATIENCE_S = 10


def main(
    repository: Annotated[Path | None, typer.Option(help="Left out: the demo voice.")] = None,
    picture: Annotated[Path, typer.Option(help="PNG file.")] = ROOT / "out" / "trace.png",
) -> None:
    """Trace one request, and draw it."""
    served = repository or prepared("demo", "demo")[1]
    with collector.running() as collected:
        os.environ |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collected.url,
            "OTEL_BSP_SCHEDULE_DELAY": str(_DELAY_MS),
        }
        with (
            Server(served, flags=traces.flags(), deadline_s=PATIENCE_S) as server,
            gateway(server.grpc_url) as address,
        ):
            with Client(server.grpc_url) as client:
                client.synthesize(SCRIPT[0][1], max_new_tokens=60)  # the first call is slow
            _speak(address, secrets.token_hex(16))
            trace = secrets.token_hex(16)
            _speak(address, trace)
            spans = _complete(collected, trace)
    picture.parent.mkdir(parents=True, exist_ok=True)
    waterfall(spans, picture)
    hops = to_first_audio(spans)
    for hop, seconds in hops.items():
        console.print(f"{1000 * seconds:7.1f} ms  {hop}")
    finish({"spans": len(spans), "hops_s": hops, "picture": str(picture)})


def _speak(address: str, trace: str) -> None:
    body = {"model": "tts-1", "input": SCRIPT[0][1], "voice": "default", "seed": 3,
            "response_format": "pcm", "max_new_tokens": 120}  # fmt: skip
    connection = http.client.HTTPConnection(address, timeout=300)
    headers = {"traceparent": f"00-{trace}-{_CALLER}-01"}
    connection.request("POST", "/v1/audio/speech", json.dumps(body), headers)
    connection.getresponse().read()
    connection.close()


def _complete(collected: collector.Collector, trace: str) -> list[Span]:
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        spans = collected.of(trace)
        if {"stream", "fish_tts_stream", "fish_decoder"} <= {span.name for span in spans}:
            time.sleep(2 * _DELAY_MS / 1000)  # spans of one request may leave in two messages
            return collected.of(trace)
        time.sleep(0.1)
    raise RuntimeError(f"spans of {[s.name for s in collected.of(trace)]} came, not of all parts")


def to_first_audio(spans: list[Span]) -> dict[str, float]:
    """Seconds from the request's arrival to each hop of its first audio."""
    by_name: dict[str, Span] = {}
    for span in spans:
        by_name.setdefault(span.name, span)
    door, stream = spans[0], by_name["stream"]
    moments = {
        "the gateway asks the server": stream.begin,
        "Triton has the request": by_name["InferRequest"].begin,
        "the prompt is built": by_name["fish_prompt"].end,
        "the LLaMA stage has made the first window": by_name["fish_decoder"].begin,
        "the decoder has made its audio": by_name["fish_decoder"].end,
        "the gateway has it": stream.events["first chunk"],
        "it leaves the gateway": door.events["first audio"],
    }
    return {hop: moment - door.begin for hop, moment in moments.items()}


def waterfall(spans: list[Span], picture: Path) -> None:
    """Draw a bar for each span; Triton's `compute` lies within the bar of its model."""
    bars = [span for span in spans if span.name != "compute"]
    begin = bars[0].begin
    figure = new_figure(11, 0.32 * len(bars) + 1.2)
    ax = figure.subplots()
    for row, span in enumerate(bars):
        colour = _COLOURS.get(span.service, "tab:green")
        left, width = 1000 * (span.begin - begin), 1000 * (span.end - span.begin)
        ax.barh(row, width, left=left, color=colour, height=0.6)
        for inner in (s for s in spans if s.parent == span.id and s.name == "compute"):
            at, lasts = 1000 * (inner.begin - begin), 1000 * (inner.end - inner.begin)
            ax.barh(row, lasts, left=at, color="tab:cyan", height=0.3)
        if span.name == "fish_llama":  # its span ends when it has queued the request
            last = max(s.begin for s in bars if s.name == "fish_decoder")
            ax.barh(row, 1000 * (last - span.end), left=left + width, height=0.6,
                    facecolor="none", edgecolor=colour, hatch="///")  # fmt: skip
        for name in ("first chunk", "first audio"):
            if name in span.events:
                moment = 1000 * (span.events[name] - begin)
                ax.plot(moment, row, "k|", markersize=14)
                ax.annotate(f" {name}", (moment, row), fontsize=7, va="center", color="white")
    ax.set_yticks(range(len(bars)), [span.name for span in bars])
    ax.invert_yaxis()
    ax.set(xlabel="ms since the request arrived", title=(
        "One request: gateway (orange), Triton (blue; light: computing; "
        "hatched: the LLaMA stage at work until its last window)"))  # fmt: skip
    ax.title.set_fontsize(9)
    ax.grid(axis="x", alpha=0.3)
    figure.savefig(picture, dpi=90)


if __name__ == "__main__":
    typer.run(main)
