"""Starts a tritonserver on a model repository, waits until it serves, and ends it cleanly.

Example:
    with launch.Server("model_repository") as server:
        tritonclient.grpc.InferenceServerClient(server.grpc_url)
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from launch import exported, processes, startup_log, tritonserver
from launch.address import ListenAddress
from launch.doors import page, try_doors
from launch.drain import drain
from launch.run_folder import RunFolder
from launch.tritonserver import LaunchError

__all__ = ["LaunchError", "Server"]

EXIT_TIMEOUT_S = 30  # seconds that a stopping server waits for requests in flight
# OpenMP threads spin briefly before they sleep: waking up takes longer than most of their work, but
# with long spins the LLaMA stage and the codec would take the cores from each other. A value in the
# caller's environment wins.
_OPENMP = {"GOMP_SPINCOUNT": "3000"}  # turns of the loop


class AbortedError(LaunchError):
    """The server ended by abort(): a fault of Triton itself or of a native backend."""


class Server:
    """A tritonserver of this machine, serving one repository.

    Attributes:
        address: The address it listens at, as it was given.
        ports: Port numbers by service: http, grpc, metrics.
        log_path: The server's log; a clean stop removes it unless the caller named it.
    """

    def __init__(
        self,
        repository: Path | str,
        profile: str | None = None,
        *,
        address: str = "127.0.0.1",
        http_port: int = 0,
        grpc_port: int = 0,
        metrics_port: int = 0,
        deadline_s: float = 180,
        log_path: Path | None = None,
        environment: dict[str, str] | None = None,
        flags: Sequence[str] = (),
        drains: bool = False,
    ) -> None:
        """Describe what to serve and where; nothing happens before `start`.

        Args:
            repository: The model repository.
            profile: `configs/<profile>.pbtxt` of each model that has one; None: config.pbtxt.
            address: The address to listen at: a name or an IP address of this machine.
            http_port, grpc_port, metrics_port: 0 takes a free one.
            deadline_s: How long all models together may take to load.
            log_path: File for the server's log, replaced.
            environment: Variables for the server and its models, in addition to this process's.
            flags: Further arguments of tritonserver.
            drains: Whether `drain` can be called. Nobody can ask such a server's repository API.
        """
        self.repository, self.profile = Path(repository), profile
        self.address, self.drains = address, drains
        self._named = {"http": http_port, "grpc": grpc_port, "metrics": metrics_port}
        self.ports = dict(self._named)
        self.deadline_s, self.environment, self.flags = deadline_s, environment or {}, tuple(flags)
        self.log_path = log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: RunFolder | None = None

    def url(self, use: str) -> str:
        """HOST:PORT of a service (http, grpc, metrics), for clients on this machine."""
        return self._listen.url(self.ports[use])

    @property
    def http_url(self) -> str:
        """host:port, as tritonclient.http takes it, for clients on this machine."""
        return self.url("http")

    @property
    def grpc_url(self) -> str:
        """host:port, as tritonclient.grpc takes it, for clients on this machine."""
        return self.url("grpc")

    @property
    def metrics_url(self) -> str:
        """The address of the Prometheus page."""
        return f"http://{self.url('metrics')}/metrics"

    @cached_property
    def _listen(self) -> ListenAddress:
        return ListenAddress.of(self.address)

    @property
    def pid(self) -> int:
        """The process id of the started server."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process.pid

    @property
    def http_address(self) -> tuple[str, int]:
        """Host and port of its HTTP service, for clients on this machine."""
        return self._listen.host, self.ports["http"]

    def metrics(self) -> str:
        """Its Prometheus page; "" if there is none."""
        return self._answer("metrics", "/metrics") or ""

    def has(self, model: str) -> bool:
        """Whether its repository has a model of this name."""
        return (self.repository / model / "config.pbtxt").is_file()

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start the server and wait until every model is ready.

        A server that aborts meanwhile is started once more: Triton 2.51 was seen to do so by
        itself, with "boost::interprocess::lock_exception".

        Args:
            meanwhile: Called while models load, at each try; the ports are known then.

        Raises:
            LaunchError: If that fails or takes too long; nothing is left running.
        """
        named = self.log_path
        try:
            self._start(meanwhile)
        except AbortedError:
            self.log_path = named
            self._start(meanwhile)

    def _start(self, meanwhile: Callable[[], None]) -> None:
        exported.check(self.repository, self.profile)
        self.ports = self._free_ports()
        self._folder = folder = RunFolder.create()
        if self.drains:
            os.mkfifo(folder.drain_pipe)
        self.log_path = self.log_path or folder.path / "server.log"
        try:
            installation = tritonserver.find(folder.path / "backends")
            self._process = process = self._spawn(installation, folder, self.log_path)
            meanwhile()
            self._wait_until_ready(process, self.log_path)
            try_doors(self.repository, self._listen.host, self.ports["http"])
        except BaseException as problem:  # a signal's too: whatever ends the wait ends the server
            self._end(patience_s=5)
            folder.abandon()
            if isinstance(problem, LaunchError) and (
                why := exported.other_version(self.repository)
            ):
                raise LaunchError(f"{why}. It did not start: {problem}") from None
            raise

    def drain(self, limit_s: float) -> bool:
        """Refuse new requests, and wait until those in flight have ended.

        The server is not ready from the moment in which it hears of it.

        Args:
            limit_s: How long to wait, in seconds.

        Returns:
            Whether nothing is in flight any more; also true if its models cannot drain.
        """
        if self._folder is None:
            return True
        return drain(
            self._folder.drain_pipe,
            limit_s,
            lambda: not self.running or self._answer("http", "/v2/health/ready") is not None,
            self.metrics,
            lambda: processes.cpu_s(processes.stubs(self.pid)),
        )

    def stop(self, patience_s: float = EXIT_TIMEOUT_S + 5) -> None:
        """End the server and its stubs, and remove what they left. Does nothing the second time.

        Args:
            patience_s: Seconds before it is killed.
        """
        try:
            self._end(patience_s)
        finally:
            if self._folder is not None:
                self._folder.remove()
                self._folder = None

    def wait(self) -> int:
        """Wait for the server to end; its exit status, negative for a signal's number."""
        return self._process.wait() if self._process else 0

    def _free_ports(self) -> dict[str, int]:
        """The ports of the last start, or others if they were not named and are taken now."""
        try:
            return self._listen.free_ports(self.ports)
        except LaunchError:
            return self._listen.free_ports(self._named)

    def _command(self, installation: tritonserver.Installation, folder: RunFolder) -> list[str]:
        command = [
            str(installation.binary),
            *installation.flags,
            f"--model-repository={folder.plain(self.repository.resolve())}",
            *([f"--model-config-name={self.profile}"] if self.profile else []),
            *(tritonserver.own_control() if self.drains else []),
            "--disable-auto-complete-config",  # every config is complete; saves a stub per model
            f"--backend-config=python,shm-region-prefix-name={folder.name}_",
            "--metrics-config=summary_latencies=true",
            "--metrics-config=histogram_latencies=true",
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        ]
        for use, port in self.ports.items():
            command += [f"--{use}-address={self._listen.flag(use)}", f"--{use}-port={port}"]
        return [*command, *self.flags]

    def _spawn(
        self, installation: tritonserver.Installation, folder: RunFolder, log_path: Path
    ) -> subprocess.Popen[bytes]:
        # At SIGTERM a tritonserver drops what is in flight: it is held back, and seen in /proc.
        tie = processes.tied([signal.SIGTERM] if self.drains else [], guarded=True)
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*tie, *self._command(installation, folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **_OPENMP,
                    **os.environ,
                    **installation.environment,
                    **({"VOICEREEL_DRAIN_PIPE": str(folder.drain_pipe)} if self.drains else {}),
                    **self.environment,
                },
                cwd=tritonserver.PROJECT,  # the wheel's stub ignores PYTHONPATH
                pass_fds=[folder.lock],
                start_new_session=True,  # Ctrl-C must not reach it; its group has the stubs
            )
        folder.release()
        return process

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        give_up = time.monotonic() + self.deadline_s
        while not self._is_ready():
            status = process.poll()
            if status is not None:
                kind = AbortedError if status == -signal.SIGABRT else LaunchError
                raise kind(startup_log.why_it_ended(log_path, status))
            if time.monotonic() > give_up:
                raise LaunchError(
                    f"not ready after {self.deadline_s:g} s: "
                    + startup_log.what_it_waits_for(log_path)
                )
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        """Whether all models are ready and all ports open; the metrics port is the last."""
        services = ("http", "/v2/health/ready"), ("metrics", "/metrics")
        return all(self._answer(use, path) is not None for use, path in services)

    def _answer(self, use: str, path: str) -> str | None:
        return page(self._listen.host, self.ports[use], path)

    def _end(self, patience_s: float) -> None:
        """End the server, then any stub that has not ended with it, even if a signal interrupts."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)  # does the same, and is not held back
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
        finally:
            process.kill()  # does nothing to one that has ended
            process.wait()
            processes.kill_group(process.pid)
