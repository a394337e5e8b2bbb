"""`python -m launch.serve`: a tritonserver in the foreground, on a model repository."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from launch import startup_log
from launch.server import LaunchError, Server

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    profile: Annotated[str, typer.Option(help="cpu, gpu, gpu_multi; left out: config.pbtxt.")] = "",
    address: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0: any free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0: any free one.")] = 8002,
    deadline: Annotated[float, typer.Option(help="Seconds the models may take to load.")] = 180,
    log: Annotated[Path | None, typer.Option(help="File for the server's log.")] = None,
    verbose: Annotated[bool, typer.Option(help="Copy the server's log to stderr.")] = False,
) -> None:
    """Serve a model repository until SIGINT or SIGTERM."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    server = Server(
        repository,
        profile or None,
        address=address,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        deadline_s=deadline,
        log_path=log,
    )
    try:
        with _log_on_stderr(server) if verbose else contextlib.nullcontext(), server:
            print(_ready_line(server), flush=True)
            status = server.wait()
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


def _stop(number: int, frame: FrameType | None) -> None:
    for each in _SIGNALS:  # a second signal must not interrupt the shutdown
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
