"""`voicereel ready`, `settings`, `doctor`, `serve` and `bench`: the machine and its server."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from voicereel.cli.session import (
    EXIT_CODES,
    Json,
    Url,
    Via,
    connected,
    console,
    go_on_as,
    print_result,
    reported,
)
from voicereel.doctor import Finding, examine
from voicereel.errors import ServerUnavailable
from voicereel.project import project_folder
from voicereel.settings import listed, read_settings, suspicious_variables

PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}
_COLOURS = {"ok": "green", "warning": "yellow", "broken": "red"}


def ready(url: Url = None, protocol: Via = "grpc", as_json: Json = False) -> None:
    """Exit with 0 if the server and all its front doors are ready, else with 3."""
    with connected(url, protocol) as client:
        health = client.health()
    lines = [f"{name}: {'ready' if up else 'not ready'}" for name, up in health.items()]
    print_result(health if as_json else "\n".join(lines))
    if not all(health.values()):
        raise typer.Exit(EXIT_CODES[ServerUnavailable])


def settings(as_json: Json = False) -> None:
    """Show every variable: what is in force, and where it came from."""
    with reported():
        found = listed(read_settings())
    for suspicion in suspicious_variables():
        console.print(f"[yellow]{suspicion}[/yellow]", highlight=False)
    if as_json:
        print_result({s.variable: {**asdict(s), "value": _shown(s.value)} for s in found})
        return
    table = Table(Column("variable", no_wrap=True), "value", "from", "read by", "meaning")
    for s in found:
        value = "" if s.value is None else str(_shown(s.value)).lower()
        table.add_row(s.variable, value, s.origin, s.read_by, s.meaning)
    Console().print(table)
    print_result("The server reads its own environment: set those variables where it is started.")


def doctor(
    repository: Annotated[Path | None, typer.Option(help="Model repository to check.")] = None,
    http_port: Annotated[int, typer.Option(help="That the server is to have.")] = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    url: Url = None,
    as_json: Json = False,
) -> None:
    """Find what is broken and say how to mend it; exit with 1 if anything is."""
    arguments = [f"--http-port={http_port}", f"--grpc-port={grpc_port}"]
    arguments += [f"--metrics-port={metrics_port}"]
    arguments += [f"--repository={repository}"] if repository else []
    with console.status("looking"):
        found = list(examine(url, arguments))
    if as_json:
        print_result(found)
    else:
        for finding in found:
            colour = _COLOURS[finding["status"]]
            line = (
                f"[{colour}]{finding['status']:8}[/] {finding['check']}: {escape(finding['found'])}"
            )
            mend = f"\n         mend: {escape(finding['mend'])}" if finding["mend"] else ""
            Console().print(line + mend, highlight=False, soft_wrap=True)
    if any(finding["status"] == "broken" for finding in found):
        raise typer.Exit(1)


def serve(context: typer.Context) -> None:
    """Start the server in the foreground, where the whole of voicereel-triton is.

    Options are those of `make serve`: --repository DIR, --profile cpu|gpu|gpu_multi, --address,
    --http-port, --grpc-port, --metrics-port, --log FILE, --verbose.
    """
    with reported():
        root = project_folder("serving")
    arguments = list(context.args)
    if not any(argument.startswith("--repository") for argument in arguments):
        arguments += ["--repository", str(root / "model_repository")]
    go_on_as(root, ["-m", "launch.serve", *arguments])


def bench(context: typer.Context) -> None:
    """Time a script of two speakers against the target, 30 s of audio in 8 s.

    Options are those of tools/benchmark_performance.py: --segments, --runs, --engine, --output, ...
    """
    with reported():
        root = project_folder("the benchmark")
    go_on_as(root, [str(root / "tools" / "benchmark_performance.py"), *context.args])


def _line_of(finding: Finding) -> str:
    status, mend = finding["status"], finding["mend"]
    line = f"[{_COLOURS[status]}]{status:8}[/] {finding['check']}: {escape(finding['found'])}"
    return line + (f"\n         mend: {escape(mend)}" if mend else "")


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
