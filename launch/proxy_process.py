"""Runs the proxy, which is the only public door of a server that `make serve` starts."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launch import processes
from launch.address import ListenAddress
from launch.doors import page
from launch.tritonserver import PROJECT, LaunchError

START_S = 60  # seconds that it may take to open its ports
REACHES_S = 3  # seconds to reach the servers; whoever watches it finds out if it does not
MARGIN_S = 2  # seconds to end in, beyond those that requests in flight have


class ProxyProcess:
    """`python -m proxy` in front of a server's ports.

    Attributes:
        ports: Port numbers by service: http, grpc, metrics; true ones once it has started.
    """

    def __init__(
        self,
        listen: ListenAddress,
        ports: dict[str, int],
        arguments: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "proxy"),
    ) -> None:
        """Describe it; nothing happens before `start`.

        Args:
            listen: The public address.
            ports: The public ports, 0 for any free one.
            arguments: Further ones.
            command: What runs it.
        """
        self.ports = dict(ports)
        self._listen, self._arguments, self._command = listen, [*arguments], [*command]
        self._process: subprocess.Popen[bytes] | None = None
        self._servers: dict[str, str] = {}
        self._is_open = False

    @property
    def pid(self) -> int:
        """Its process id."""
        if self._process is None:
            raise RuntimeError("the proxy has not been started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of its HTTP service, for clients on this machine."""
        return self._listen.host, self.ports["http"]

    def url(self, use: str) -> str:
        """HOST:PORT of a service, for clients on this machine."""
        return self._listen.url(self.ports[use])

    def start(self, servers: dict[str, str]) -> None:
        """Start it, unless it runs in front of these servers; `wait_until_open` must follow.

        Args:
            servers: HOST:PORT of each service behind it; nobody needs to listen there yet.
        """
        if self.running and servers == self._servers:
            return
        self.stop()
        self._servers, self._is_open = dict(servers), False
        ports = [f"--{use}-port={port}" for use, port in self.ports.items()]
        behind = [f"--server-{use}={url}" for use, url in servers.items()]
        self._process = subprocess.Popen(
            [*processes.tied(), *self._command, f"--address={self._listen.ip}", *ports, *behind,
             *self._arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=PROJECT,
            start_new_session=True,  # Ctrl-C must not reach it
        )  # fmt: skip

    def wait_until_open(self) -> None:
        """Wait until its ports are open. Does nothing the second time.

        Raises:
            LaunchError: If it ends, or says nothing within `START_S` seconds; it is stopped then.
        """
        if self._process is None or self._is_open:
            return
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self.stop)
            self.ports |= self._said(self._process)
            self._is_open = True
            cleanup.pop_all()

    def wait_until_ready(self) -> None:
        """Wait until it reaches the servers, `REACHES_S` seconds at most.

        One that was started before them has tried in vain, and tries again only after a pause.
        """
        give_up = time.monotonic() + REACHES_S
        while page(*self.http_address, "/v2/health/ready") is None and time.monotonic() < give_up:
            time.sleep(0.02)

    def _said(self, process: subprocess.Popen[bytes]) -> dict[str, int]:
        """The ports of its ready line."""
        line, give_up = b"", time.monotonic() + START_S
        output = process.stdout.fileno() if process.stdout else -1
        while not line.endswith(b"\n"):
            patience = max(0, give_up - time.monotonic())
            if not select.select([output], [], [], patience)[0]:
                raise LaunchError(f"the proxy has opened no ports after {START_S} s")
            if not (more := os.read(output, 4096)):
                raise LaunchError(f"the proxy ended with exit status {process.wait()}")
            line += more
        try:
            said = json.loads(line)
            return {use: int(said[use]) for use in self.ports}
        except (ValueError, KeyError, TypeError):
            raise LaunchError(f"the proxy said {line!r}, expected its ports") from None

    def drain(self, limit_s: float) -> bool:
        """Refuse new requests, and wait until those in flight have ended; the proxy ends then.

        Returns:
            Whether nothing was in flight any more before the limit.
        """
        if self._process is None or self._process.poll() is not None:
            return True
        begin = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(limit_s + MARGIN_S)
        return time.monotonic() - begin < max(limit_s, MARGIN_S)

    def stop(self) -> None:
        """End it at once. Does nothing the second time."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def proxy_arguments(
    state: Path, key_file: Path, opened: Sequence[str], grace_s: float, verbose: bool
) -> list[str]:
    """What the proxy is told beside addresses."""
    return [
        f"--state={state}",
        f"--key-file={key_file}",
        f"--grace={grace_s:g}",
        "--probe=0",  # the supervisor notices what dies, and such requests count as failures
        f"--log-level={'info' if verbose else 'warning'}",
        *([f"--open={','.join(opened)}"] if opened else []),
    ]
