"""`python -m launch.serve`: a tritonserver in the foreground, on a model repository."""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from ensemble.contract.settings import DRAIN_S, MOST_DRAIN_S, server_settings
from launch import compiler, shared_memory, startup_log, traces
from launch.server import LaunchError, Server

QUIET_S = 5  # seconds that a stop may take before it says what it waits for
_WAITING = (
    "serve: no new requests are taken; waiting for those in flight, {:g} s at most. "
    "A second signal ends the server at once"
)
NOW_S = 2  # seconds that a server may take to end with requests in flight
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    profile: Annotated[str, typer.Option(help="cpu, gpu, gpu_multi; left out: config.pbtxt.")] = "",
    address: Annotated[
        str, typer.Option(help="Name or IP address to listen at; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0: any free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0: any free one.")] = 8002,
    deadline: Annotated[float, typer.Option(help="Seconds the models may take to load.")] = 180,
    drain: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MOST_DRAIN_S,
            help="Seconds that requests in flight may take to end after SIGINT or SIGTERM; "
            f"VOICEREEL_DRAIN_S, or {DRAIN_S}, if left out.",
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for the server's log.")] = None,
    verbose: Annotated[bool, typer.Option(help="Copy the server's log to stderr.")] = False,
) -> None:
    """Serve a model repository until SIGINT or SIGTERM; a second one ends it at once."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    try:
        settings = server_settings()
    except ValueError as error:
        print(f"serve: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    limit_s = settings.drain_s if drain is None else drain
    if slow := compiler.missing(settings):
        print(f"serve: warning: {slow}; {compiler.remedy()}", file=sys.stderr)
    if short := shared_memory.shortage():
        print(f"serve: warning: {short}. {shared_memory.REMEDY}", file=sys.stderr)
    server = Server(
        repository,
        profile or None,
        address=address,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        deadline_s=deadline,
        log_path=log,
        flags=traces.flags(),
        drains=True,
    )
    try:
        with _log_on_stderr(server) if verbose else contextlib.nullcontext(), server:
            print(_ready_line(server), flush=True)
            try:
                status = server.wait()
            except SystemExit:
                _end(server, limit_s)
                raise
            raise LaunchError(startup_log.why_it_ended(server.log_path or Path(), status))
    except LaunchError as error:
        print(f"serve: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _ready_line(server: Server) -> str:
    profile = f" (profile {server.profile})" if server.profile else ""
    return (
        f"ready: {server.repository}{profile} at http://{server.http_url} "
        f"grpc://{server.grpc_url}, metrics {server.metrics_url}, pid {server.pid}"
    )


def _end(server: Server, limit_s: float) -> None:
    """End a server when nothing is in flight any more, or the limit has passed."""
    drained, begin = False, time.monotonic()
    patience = threading.Timer(QUIET_S, print, [_WAITING.format(limit_s)], {"file": sys.stderr})
    patience.daemon = True
    patience.start()
    try:
        drained = server.drain(limit_s)
        if not drained:
            print(
                f"serve: requests were still in flight after {time.monotonic() - begin:.0f} s",
                file=sys.stderr,
            )
    finally:  # also when a second signal interrupts
        patience.cancel()
        server.stop() if drained else server.stop(NOW_S)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:
        signal.signal(each, _stop_now)
    raise SystemExit(0)


def _stop_now(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:  # a third signal must not interrupt the shutdown
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(0)


@contextlib.contextmanager
def _log_on_stderr(server: Server) -> Iterator[None]:
    """Copy the server's growing log to stderr while the context lasts."""
    ended = threading.Event()

    def copy() -> None:
        position, last = 0, False
        while not last:
            last = ended.wait(0.2)
            if server.log_path is not None and server.log_path.exists():
                with server.log_path.open("rb") as log:
                    log.seek(position)
                    sys.stderr.buffer.write(log.read())
                    position = log.tell()
                sys.stderr.buffer.flush()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=2)


if __name__ == "__main__":
    typer.run(main)
