"""What the commands share: options, the console, errors as exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from voicereel.client import Client, Protocol
from voicereel.errors import (
    ConfigurationError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerUnavailable,
    VoiceReelError,
)
from voicereel.library import VoiceLibrary
from voicereel.settings import settings

EXIT_CODES = {
    InvalidRequest: 2,
    ConfigurationError: 2,
    ServerUnavailable: 3,
    Overloaded: 4,
    DeadlineExceeded: 4,
}

console = Console(stderr=True)  # stdout is for results

Url = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of the server; VOICEREEL_URL, or 127.0.0.1:8001, if left out."),
]
Via = Annotated[Protocol, typer.Option("--protocol", help="grpc: port 8001; http: port 8000.")]
Timeout = Annotated[float, typer.Option(help="Seconds for the whole answer.", min=0.001)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same audio.")]
Temperature = Annotated[float | None, typer.Option(help="0 takes the likeliest.")]


@contextmanager
def reported() -> Iterator[None]:
    """Errors become a message on stderr and an exit code."""
    try:
        yield
    except VoiceReelError as error:
        console.print(
            f"[red]{type(error).__name__}[/red]: {escape(str(error))}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(EXIT_CODES.get(type(error), 1)) from None


@contextmanager
def connected(
    url: str | None, protocol: Protocol = "grpc", timeout_s: float = 300.0
) -> Iterator[Client]:
    """A client whose errors are reported."""
    with reported(), Client(url or settings().url, protocol, timeout_s) as client:
        yield client


def library() -> VoiceLibrary:
    """The voices of this user."""
    return VoiceLibrary(settings().voices)


def print_result(result: Mapping[str, object] | Sequence[object] | str) -> None:
    """On stdout: a text as it is, all else as JSON."""
    shown = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    typer.echo(shown)


def go_on_as(root: Path, command: Sequence[str]) -> NoReturn:
    """Become a Python command of the whole project, whose root is given."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    sys.stdout.flush()
    if os.name == "posix":  # signals reach it, and its exit code is ours
        os.execve(sys.executable, [sys.executable, *command], environment)
    raise typer.Exit(subprocess.run([sys.executable, *command], env=environment).returncode)
