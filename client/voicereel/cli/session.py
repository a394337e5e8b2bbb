"""What every command does: connect, report errors as exit codes, print results."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

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

# Exit codes of errors; every other error is 1. `voicereel --help` explains them.
EXIT_CODES = {
    InvalidRequest: 2,
    ConfigurationError: 2,
    ServerUnavailable: 3,
    Overloaded: 4,
    DeadlineExceeded: 4,
}

console = Console(stderr=True)  # stdout is for results


@contextmanager
def reported() -> Iterator[None]:
    """Turn errors into a message on stderr and an exit code."""
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
    """Give a client, and report the errors of its calls."""
    with reported(), Client(url or settings().url, protocol, timeout_s) as client:
        yield client


def library() -> VoiceLibrary:
    """The voices that this user keeps."""
    return VoiceLibrary(settings().voices)


def print_warnings(warnings: Sequence[str]) -> None:
    """Say on stderr what is suspicious, one line each."""
    for warning in warnings:
        console.print(
            f"[yellow]warning[/yellow]: {escape(warning)}", highlight=False, soft_wrap=True
        )


def print_result(
    result: Mapping[str, object] | Sequence[object] | str, *, on_stderr: bool = False
) -> None:
    r"""Print to stdout: a text unchanged, anything else as JSON.

    What the terminal cannot show, such as bytes of a file's name, is printed as in "\udcfc".
    """
    shown = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    encoding = getattr(sys.stderr if on_stderr else sys.stdout, "encoding", None) or "utf-8"
    typer.echo(shown.encode(encoding, "backslashreplace").decode(encoding), err=on_stderr)
