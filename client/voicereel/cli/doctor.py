"""`voicereel doctor`: the findings of `voicereel.doctor`, for the eye or as JSON."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from voicereel.cli.options import Json, Url
from voicereel.cli.session import console, print_result
from voicereel.doctor import Finding, examine

_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


def doctor(
    repository: Annotated[Path | None, typer.Option(help="Model repository to check.")] = None,
    http_port: Annotated[int, typer.Option(help="Port for the server's HTTP service.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Port for its gRPC service.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="Port for its metrics.")] = 8002,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Find what is broken and say how to fix it; exit with 1 if anything is."""
    arguments = [f"--http-port={http_port}", f"--grpc-port={grpc_port}"]
    arguments += [f"--metrics-port={metrics_port}"]
    arguments += [f"--repository={repository}"] if repository else []
    with console.status("checking"):
        found = list(examine(url, arguments))
    if as_json:
        print_result(found)
    else:
        for finding in found:
            Console().print(_line_of(finding), highlight=False, soft_wrap=True)
    if any(finding["status"] == "broken" for finding in found):
        raise typer.Exit(1)


def _line_of(finding: Finding) -> str:
    status, fix = finding["status"], finding["fix"]
    line = f"[{_COLOURS[status]}]{status:8}[/] {finding['check']}: {escape(finding['found'])}"
    return line + (f"\n         fix: {escape(fix)}" if fix else "")
