"""Keeps a server serving: notices that a process of it is gone or hangs, and starts it again."""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from launch import hardening, processes, startup_log
from launch.proxy_process import ProxyProcess
from launch.restarts import WITHIN_S, Restarts
from launch.run_folder import RunFolder
from launch.server import Server
from launch.tritonserver import LaunchError
from launch.watch import Watch

TICK_S = 0.25  # between two looks at what no file descriptor tells
ENDING_S = 8  # seconds that a server may take to end when nothing is in flight any more


@dataclass(frozen=True)
class Death:
    """Why a server has to be started again.

    Attributes:
        reason: One of `restarts.REASONS`.
        what: For the log.
    """

    reason: str
    what: str


class Supervisor:
    """A server, the proxy before it, and what happens when one of their processes ends."""

    def __init__(
        self, server: Server, proxy: ProxyProcess | None, restarts: Restarts, folder: RunFolder
    ) -> None:
        """Describe it; nothing happens before `start`.

        Args:
            server: With a log of its own name, so that each start has one.
            proxy: None serves the server's own ports.
            restarts: How many there may be.
            folder: Of what outlives a start of the server; removed at the end.
        """
        self.server, self.proxy, self.restarts = server, proxy, restarts
        self._folder, self._key = folder, hardening.made_key(folder.path)

    def __enter__(self) -> "Supervisor":
        try:
            self._start_what_is_gone()
        except BaseException as problem:
            self._end(0, keep_log=isinstance(problem, LaunchError))
            raise
        self.restarts.serving()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end(0, keep_log=kind is not None and issubclass(kind, LaunchError))

    def url(self, use: str) -> str:
        """HOST:PORT of a public service, for clients on this machine."""
        return (self.proxy or self.server).url(use)

    def watch(self) -> None:
        """Start again what has died, for ever.

        Raises:
            LaunchError: If that happens too often.
            SystemExit: If somebody ends tritonserver itself by SIGTERM, as a container may.
        """
        while True:
            with Watch(self.server, self.proxy) as watch:
                death = self._next_death(watch)
            self._start_again(death)

    def drain(self, limit_s: float) -> bool:
        """Refuse new requests and wait for those in flight; whether there are none any more."""
        if self.proxy is not None:
            return self.proxy.drain(limit_s)
        return self.server.drain(limit_s)

    def stop(self, patience_s: float = ENDING_S) -> None:
        """End everything. Does nothing the second time."""
        self._end(patience_s, keep_log=False)

    def _next_death(self, watch: Watch) -> Death:
        """Wait until a process has ended, or is of no use any more."""
        with self._watched() as (poll, watched):
            stopped: set[int] = set()
            while True:
                if ended := poll.poll(TICK_S * 1000):
                    return self._ended(*watched[ended[0][0]])
                before, stopped = (
                    stopped,
                    {p for p, _ in watched.values() if processes.is_stopped(p)},
                )
                for pid, name in watched.values():
                    if pid in before & stopped:  # twice: a debugger's attaching takes a moment
                        reason = "proxy" if name == "proxy" else "stopped"
                        return Death(reason, f"{name} (pid {pid}) was stopped by a signal")
                if processes.is_pending(self.server.pid, signal.SIGTERM):
                    raise SystemExit(0)
                if watch.problem:
                    return Death(watch.reason, watch.problem)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[tuple[select.poll, dict[int, tuple[int, str]]]]:
        """A poll on the processes there are, and process id and name by file descriptor."""
        pids = {self.server.pid: "tritonserver"} | processes.stubs(self.server.pid)
        if self.proxy is not None:
            pids[self.proxy.pid] = "proxy"
        poll, watched = select.poll(), dict[int, tuple[int, str]]()
        try:
            for pid, name in pids.items():
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:  # found by the next look at the processes
                    continue
                watched[descriptor] = pid, name
                poll.register(descriptor, select.POLLIN)
            yield poll, watched
        finally:
            for descriptor in watched:
                os.close(descriptor)

    def _ended(self, pid: int, name: str) -> Death:
        if name == "tritonserver":
            status = self.server.wait()
            return Death("server", startup_log.why_it_ended(self._log, status))
        if name == "proxy":
            return Death("proxy", f"the proxy (pid {pid}) has ended")
        return Death("model", f"the process of {name} (pid {pid}) has ended")

    @property
    def _log(self) -> Path:
        return self.server.log_path or Path()

    def _start_again(self, death: Death) -> None:
        begin, last = time.monotonic(), ""
        if death.reason == "proxy" and self.proxy is not None:
            self.proxy.stop()
        else:
            self.server.stop(0)  # whoever waits for it hears at once that it is gone
            last = startup_log.last_lines(self._log)
        while (delay := self.restarts.note(death.reason)) is not None:
            say(f"{death.what}; starting again" + (f" in {delay:g} s" if delay else ""))
            time.sleep(delay)
            if not self.server.running:
                startup_log.keep(self._log)
            try:
                self._start_what_is_gone()
            except (LaunchError, OSError) as error:
                death, last = Death("start", in_words(error)), startup_log.last_lines(self._log)
                continue
            took = time.monotonic() - begin
            self.restarts.serving(took)
            say(f"serving again after {took:.1f} s, pid {self.server.pid}")
            return
        raise LaunchError(_given_up(self.restarts.limit, death.what, last))

    def _restore_folder(self) -> None:
        """Log, key and state are in it, and something may clear temporary files."""
        self._folder.restore()
        if self._key and not hardening.made_key(self._folder.path):
            hardening.write_key(self._folder.path, self._key)

    def _start_what_is_gone(self) -> None:
        self._restore_folder()
        if not self.server.running:
            self.server.start(meanwhile=self._start_proxy)
        if self.proxy is not None:
            self._start_proxy()
            self.proxy.wait_until_open()
            self.proxy.wait_until_ready()

    def _start_proxy(self) -> None:
        """Start the proxy where there is none, or one before ports that the server has no more."""
        if self.proxy is not None:
            self.proxy.start({use: self.server.url(use) for use in self.server.ports})

    def _end(self, patience_s: float, keep_log: bool) -> None:
        try:
            if self.proxy is not None:
                self.proxy.stop()
            self.server.stop(patience_s)
        finally:
            if keep_log:
                hardening.forget(self._folder.path)
                self._folder.abandon()
            else:
                self._folder.remove()


def in_words(error: Exception) -> str:
    """What is wrong and what to do; a full disk or a read-only one is an `OSError`."""
    if not isinstance(error, OSError):
        return str(error)
    where = f"{error.filename}: " if error.filename else ""
    return (
        f"{where}{error.strerror}. The server keeps a few MB in a folder for temporary files: "
        + ("make room there, or name another one with TMPDIR=DIR")
    )


def _given_up(limit: int, what: str, last: str) -> str:
    if limit == 0:
        return what
    often = f"{limit} restarts within {WITHIN_S / 60:g} minutes were not enough: giving up. "
    return often + f"The last: {what}" + (f"\nIts log ended with:\n{last}" if last else "")


def say(what: str) -> None:
    """Tell the operator; what serves goes on where nobody reads, or the disk is full."""
    with contextlib.suppress(OSError, ValueError):
        print(f"serve: {what}", file=sys.stderr, flush=True)
