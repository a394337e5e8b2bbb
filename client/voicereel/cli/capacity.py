"""`voicereel capacity`: how many servers a load needs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from voicereel.capacity import HEADROOM, SPARE, plan, reported_machine
from voicereel.cli.options import Json
from voicereel.cli.session import print_result, reported


def capacity(
    machine: Annotated[
        str, typer.Option(help="A measured machine; docs/capacity.md lists them.")
    ] = "cpu-2-cores-int8",
    report: Annotated[
        Path | None,
        typer.Option(help="report/load.csv of `make load` on a machine of yours, instead."),
    ] = None,
    streams: Annotated[float | None, typer.Option(help="Streams at once, on average.")] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(help="Requests that arrive each second, instead of streams.")
    ] = None,
    audio_s: Annotated[float, typer.Option(help="Seconds of audio of a request.")] = 5.0,
    target_p95_s: Annotated[
        float, typer.Option(help="Seconds to the first audio that 95 of 100 requests may take.")
    ] = 2.0,
    headroom: Annotated[
        float, typer.Option(help="Share of a replica's streams to plan with.")
    ] = HEADROOM,
    spare: Annotated[int, typer.Option(min=0, help="Replicas beside those needed.")] = SPARE,
    as_json: Json = False,
) -> None:
    """Say how many replicas a load needs, and on which assumptions."""
    with reported():
        found = plan(
            machine if report is None else reported_machine(report),
            streams=streams,
            requests_per_s=requests_per_s,
            audio_s=audio_s,
            target_p95_s=target_p95_s,
            headroom=headroom,
            spare=spare,
        )
    if as_json:
        print_result(asdict(found))
        return
    lines = [
        f"{found.replicas} replicas for {found.streams:.1f} streams at once: "
        f"first audio within about {found.first_p95_s:.2f} s (p95)",
        *(f"- {assumption}" for assumption in found.assumptions),
    ]
    print_result("\n".join(lines))
