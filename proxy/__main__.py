"""`python -m proxy`: the proxy in the foreground."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from launch.processes import allow_descriptors
from proxy.doors import GROUPS
from proxy.load import LONGEST_WAIT_S
from proxy.serve import serve
from proxy.settings import Settings, key_of, opened_of

_PORT = typer.Option(min=0, max=65535, help="0: any free one.")
_SERVER = typer.Option(help="HOST:PORT of the tritonserver.")
_DAY_S = 86_400
_LEVELS = ("debug", "info", "warning", "error")


def main(
    address: Annotated[str, typer.Option(help="Name or IP address to listen at.")] = "127.0.0.1",
    http_port: Annotated[int, _PORT] = 0,
    grpc_port: Annotated[int, _PORT] = 0,
    metrics_port: Annotated[int, _PORT] = 0,
    server_http: Annotated[str, _SERVER] = "127.0.0.1:8000",
    server_grpc: Annotated[str, _SERVER] = "127.0.0.1:8001",
    server_metrics: Annotated[str, _SERVER] = "127.0.0.1:8002",
    state: Annotated[
        Path | None, typer.Option(help="File in Prometheus' format, added to the metrics.")
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="File of a key that opens all doors to who sends it.")
    ] = None,
    open: Annotated[str, typer.Option(help=f"Doors open to all: {','.join(GROUPS)}.")] = "",
    max_body_mib: Annotated[int, typer.Option(min=1, max=2047, help="Of one request.")] = 64,
    longest_wait: Annotated[
        float,
        typer.Option(min=0, max=_DAY_S, help="Seconds that a request may wait for others; 0: any."),
    ] = LONGEST_WAIT_S,
    slow_reader: Annotated[
        float,
        typer.Option(
            min=0.1, max=_DAY_S, help="Seconds after which a caller that reads nothing goes."
        ),
    ] = 60,
    probe: Annotated[
        float,
        typer.Option(
            min=0, max=_DAY_S, help="Seconds between two signs of life of a model; 0: none."
        ),
    ] = 1,
    grace: Annotated[
        float, typer.Option(min=0, max=_DAY_S, help="Seconds for requests in flight after SIGTERM.")
    ] = 300,
    log_level: Annotated[
        str, typer.Option(help="debug, info: a line for each request; warning, error.")
    ] = "info",
) -> None:
    """Stand in front of a tritonserver until SIGINT or SIGTERM."""
    if log_level not in _LEVELS:
        raise typer.BadParameter(f"{log_level!r}, expected {', '.join(_LEVELS)}")
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=log_level.upper())
    logging.getLogger("grpc").setLevel(logging.CRITICAL)  # a caller that left is no error
    allow_descriptors()
    try:
        settings = Settings(
            address, http_port, grpc_port, metrics_port, server_http, server_grpc, server_metrics,
            state, key_of(key_file), opened_of(open), max_body_mib, longest_wait, slow_reader,
            probe, grace,
        )  # fmt: skip
        drained = asyncio.run(serve(settings))
    except (ValueError, OSError) as error:
        print(f"proxy: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    if not drained:
        print(f"proxy: requests were still in flight after {grace:g} s", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
