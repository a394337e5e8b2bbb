"""`python -m launch.serve`: a model repository in the foreground, kept serving.

A tritonserver on ports of this machine's own, and before it the proxy on the public ones. Both are
started again when they die.
"""

import contextlib
import os
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
from launch import compiler, exported, hardening, shared_memory, traces
from launch.address import ListenAddress
from launch.processes import allow_descriptors
from launch.proxy_process import ProxyProcess, proxy_arguments
from launch.restarts import WITHIN_S, Restarts
from launch.run_folder import RunFolder
from launch.server import LaunchError, Server
from launch.supervisor import Supervisor, in_words, say

QUIET_S = 5  # seconds that a stop may take before it says what it waits for
_WAITING = (
    "no new requests are taken; waiting for those in flight, {:g} s at most. "
    "A second signal ends the server at once"
)
NOW_S = 2  # seconds that a server may take to end with requests in flight
_OWN = "127.0.0.1"  # where a tritonserver behind the proxy listens
RESTARTS, MOST_RESTARTS = 5, 1000
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def main(
    repository: Annotated[Path, typer.Option(help="Model repository.")] = Path("model_repository"),
    profile: Annotated[str, typer.Option(help="cpu, gpu, gpu_multi; left out: config.pbtxt.")] = "",
    address: Annotated[
        str, typer.Option(help="Name or IP address to listen at; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    http_port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8000,
    grpc_port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = 8002,
    deadline: Annotated[
        float, typer.Option(min=0, max=MOST_DRAIN_S, help="Seconds the models may take to load.")
    ] = 180,
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
    without_proxy: Annotated[
        bool, typer.Option("--without-proxy", help="Serve tritonserver's own ports.")
    ] = False,
    opened: Annotated[
        str,
        typer.Option(
            "--open",
            help=f"Services to leave open: {','.join((*hardening.CLOSED, hardening.INNER))}.",
        ),
    ] = "",
    key_file: Annotated[
        Path | None, typer.Option(help="Key to the closed services; left out: a new one.")
    ] = None,
    restarts: Annotated[
        int,
        typer.Option(
            min=0,
            max=MOST_RESTARTS,
            help=f"So many within {WITHIN_S / 60:g} minutes, then it gives up.",
        ),
    ] = RESTARTS,
) -> None:
    """Serve a model repository until SIGINT or SIGTERM; a second one ends it at once."""
    for number in _SIGNALS:
        signal.signal(number, _stop)
    ports = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
    try:
        settings = server_settings()
        limit_s = settings.drain_s if drain is None else drain
        names, listen = hardening.opened(opened), ListenAddress.of(address)
        _require_file(log)
        if slow := compiler.missing(settings):
            say(f"warning: {slow}; {compiler.remedy()}")
        if short := shared_memory.shortage():
            say(f"warning: {short}. {shared_memory.REMEDY}")
        if other := exported.other_version(repository):
            say(f"warning: {other}")
        if not without_proxy:  # before models are loaded for minutes
            listen.free_ports(ports)
        allow_descriptors()
        folder = RunFolder.create()
        file, key = hardening.key_in(key_file, folder)
        server = Server(
            repository,
            profile or None,
            deadline_s=deadline,
            log_path=log or folder.path / "server.log",
            flags=[*hardening.flags(key, names), *traces.flags()],
            drains=True,
            address=address if without_proxy else _OWN,
            http_port=http_port if without_proxy else 0,
            grpc_port=grpc_port if without_proxy else 0,
            metrics_port=metrics_port if without_proxy else 0,
        )
        state, proxy = folder.path / "state.prom", None
        if not without_proxy:
            told = proxy_arguments(state, file, names, limit_s, verbose)
            proxy = ProxyProcess(listen, ports, told)
        _serve(Supervisor(server, proxy, Restarts(restarts, state), folder), limit_s, verbose)
    except (LaunchError, ValueError, OSError) as error:
        say(in_words(error))
        raise typer.Exit(1) from None


def _require_file(log: Path | None) -> None:
    """Refuse a log that cannot be written before models are loaded for minutes."""
    try:
        if log is not None:
            log.open("ab").close()
    except OSError as error:
        raise LaunchError(
            f"--log {log}: {error.strerror}. Name a file that can be written"
        ) from None


def _serve(supervisor: Supervisor, limit_s: float, verbose: bool) -> None:
    with _log_on_stderr(supervisor.server) if verbose else contextlib.nullcontext(), supervisor:
        print(_ready_line(supervisor), flush=True)
        try:
            supervisor.watch()
        except SystemExit:
            _end(supervisor, limit_s)
            raise


def _ready_line(supervisor: Supervisor) -> str:
    server = supervisor.server
    profile = f" (profile {server.profile})" if server.profile else ""
    return (
        f"ready: {server.repository}{profile} at http://{supervisor.url('http')} "
        f"grpc://{supervisor.url('grpc')}, metrics http://{supervisor.url('metrics')}/metrics, "
        f"pid {server.pid}"
    )


def _end(server: Supervisor, limit_s: float) -> None:
    """End a server when nothing is in flight any more, or the limit has passed."""
    drained, begin = False, time.monotonic()
    patience = threading.Timer(QUIET_S, say, [_WAITING.format(limit_s)])
    patience.daemon = True
    patience.start()
    try:
        drained = server.drain(limit_s)
        if not drained:
            say(f"requests were still in flight after {time.monotonic() - begin:.0f} s")
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
                    if position > log.seek(0, os.SEEK_END):
                        position = 0  # a restart writes a new one
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
