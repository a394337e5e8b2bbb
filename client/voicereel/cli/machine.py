"""`voicereel ready`, `settings`, `serve`, `gateway`, `bench`: servers and their configuration."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console
from rich.table import Column, Table

from voicereel.checkpoint import Checkpoint
from voicereel.cli.options import Json, Url, Via
from voicereel.cli.session import EXIT_CODES, connected, console, print_result, reported
from voicereel.client import Client
from voicereel.errors import ConfigurationError, ServerUnavailable, VoiceReelError
from voicereel.project import project_environment, project_folder
from voicereel.settings import listed, read_settings, suspicious_variables
from voicereel.settings import settings as environment_settings

# Context settings of commands that pass their options on to another program.
PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def ready(url: Url = None, protocol: Via = "grpc", as_json: Json = False) -> None:
    """Exit with 0 if the server and all its front doors are ready, else with 3."""
    with connected(url, protocol) as client:
        health = client.health()
    lines = [f"{name}: {'ready' if up else 'not ready'}" for name, up in health.items()]
    print_result(health if as_json else "\n".join(lines))
    if not all(health.values()):
        raise typer.Exit(EXIT_CODES[ServerUnavailable])


def settings(url: Url = None, as_json: Json = False) -> None:
    """Show every environment variable: the value in force, and where it came from.

    If a server answers, show which defaults its checkpoint gives to options, too.
    """
    with reported():
        found = listed(read_settings())
    for suspicion in suspicious_variables():
        console.print(f"[yellow]{suspicion}[/yellow]", highlight=False)
    if as_json:
        shown: dict[str, object] = {
            s.variable: {**asdict(s), "value": _shown(s.value)} for s in found
        }
        served = _served(url)
        print_result(shown if served is None else {**shown, "server": asdict(served)})
        return
    table = Table(Column("variable", no_wrap=True), "value", "from", "read by", "meaning")
    for s in found:
        value = "" if s.value is None else str(_shown(s.value)).lower()
        table.add_row(s.variable, value, s.origin, s.read_by, s.meaning)
    Console().print(table)
    _show_defaults(url)
    print_result(
        "The server reads its variables from its own environment: set them where it is started."
    )


def _served(url: str | None) -> Checkpoint | None:
    """The checkpoint of the server, or None if no server says it."""
    try:
        with Client(url or environment_settings().url) as client:
            return client.checkpoint(timeout_s=2.0)
    except VoiceReelError:
        return None


def _show_defaults(url: str | None) -> None:
    served = _served(url)
    if served is None:
        console.print("no server answers, so the defaults of its options are not shown")
        return
    table = Table("option", f"default of the server's checkpoint ({served.family})")
    for name, value in served.defaults.items():
        table.add_row(name, f"{value:g}")
    Console().print(table)
    if served.notice:
        print_result(served.notice)


def serve(context: typer.Context) -> None:
    """Start the server in the foreground; needs a checkout of voicereel-triton.

    Options are those of `make serve`: --repository DIR, --profile cpu|gpu|gpu_multi, --address,
    --http-port, --grpc-port, --metrics-port, --log FILE, --verbose.
    """
    with reported():
        root = project_folder("serving")
    arguments = list(context.args)
    if not any(argument.startswith("--repository") for argument in arguments):
        arguments += ["--repository", str(root / "model_repository")]
    _become(root, ["-m", "launch.serve", *arguments])


def bench(context: typer.Context) -> None:
    """Time a script of two speakers against the target, 30 s of audio in 8 s.

    Options are those of tools/benchmark_performance.py: --segments, --runs, --engine, --output, ...
    """
    with reported():
        root = project_folder("the benchmark")
    _become(root, [str(root / "tools" / "benchmark_performance.py"), *context.args])


def gateway(context: typer.Context) -> None:
    """Speak OpenAI's speech API, and others, in front of the server.

    Options are those of `python -m gateway`: --host, --port, --server, --aliases; `key` makes a
    key for an app.
    """
    root = Path(__file__).resolve().parents[3]  # of a checkout; else the package is installed
    with reported():
        if importlib.util.find_spec("starlette") is None:
            raise ConfigurationError(
                'the gateway is not installed: pip install "voicereel[gateway]"'
            )
    _become(root, ["-m", "gateway", *context.args])


def _become(root: Path, command: Sequence[str]) -> NoReturn:
    """Replace this process by a Python command of the project whose root is given."""
    environment = project_environment(root)
    sys.stdout.flush()
    if os.name == "posix":  # the command gets the signals, and its exit code is this process's
        os.execve(sys.executable, [sys.executable, *command], environment)
    raise typer.Exit(subprocess.run([sys.executable, *command], env=environment).returncode)


def _shown(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
