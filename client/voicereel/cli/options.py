"""Options that several commands have."""

import inspect
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from voicereel.client import Protocol
from voicereel.options import OPTIONS, PYTHON_TYPES
from voicereel.utterance import MAX_RETRIES

Url = Annotated[
    str | None,
    typer.Option(help="HOST:PORT of the server; VOICEREEL_URL, or 127.0.0.1:8001, if left out."),
]
Via = Annotated[Protocol, typer.Option("--protocol", help="grpc: port 8001; http: port 8000.")]
Timeout = Annotated[float, typer.Option(help="Seconds for the whole response.", min=0.001)]
Retries = Annotated[
    int,
    typer.Option(
        help="Speak again if the speech is impossibly fast or slow for its text: with another "
        "seed, then in smaller parts.",
        min=0,
        max=MAX_RETRIES,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]

Command = TypeVar("Command", bound=Callable[..., None])


def takes_options(command: Command) -> Command:
    """Give a command that has `**options` a flag for every option of `voicereel.Options`."""
    signature = inspect.signature(command)
    written = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    derived = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                PYTHON_TYPES[name],
                typer.Option(
                    help=f"{option.meaning} ({option.range})", rich_help_panel="How to speak"
                ),
            ],
        )
        for name, option in OPTIONS.items()
    ]
    # Typer reads a command's parameters from its signature.
    command.__signature__ = signature.replace(parameters=[*written, *derived])  # pyright: ignore[reportFunctionMemberAccess]
    return command
