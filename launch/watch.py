"""Tries a running server every few seconds: it may be alive and answer nobody."""

import threading
import time

from launch import doors, probe, processes
from launch.proxy_process import ProxyProcess
from launch.server import Server

EVERY_S = 3  # seconds between two rounds
PATIENCE_S = 5  # that a model may take to answer
SPEAKS_S = 15  # seconds without a spoken frame after which one is asked for
# A server that answers nobody but computes is not hung: a long recording is encoded in one step.
# Less than this share of one core is no work.
IDLE = 0.1
LONGEST_S = 120  # seconds for which computing alone excuses it
FAILURES = 2  # rounds in a row after which it counts as hung


class Watch:
    """Watches one start of a server, from a thread of its own.

    Attributes:
        problem: Why the server or the proxy is of no use any more, or "".
        reason: Which of the two, in the words of `restarts.REASONS`.
    """

    def __init__(self, server: Server, proxy: ProxyProcess | None) -> None:
        self.problem, self.reason = "", "hung"
        self._server, self._proxy = server, proxy
        self._pids = server.pid, proxy.pid if proxy else 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()  # not joined: it may be waiting for an answer

    def _run(self) -> None:
        spoken, frames, failures, since = time.monotonic(), "", 0, time.monotonic()
        while not self._ended.wait(EVERY_S):
            if not self._server.running:
                return  # its end is noticed by who waits for it
            begin, used = time.monotonic(), self._cpu_s()
            problem = self._knock()
            if not problem and begin - spoken > SPEAKS_S and self._server.has("fish_tts"):
                now = self._frames()
                if now != frames or not (problem := self._speak()):
                    spoken, frames = begin, now
            waited = time.monotonic() - begin
            computed = (self._cpu_s() - used) / max(waited, 1e-3) > IDLE
            if not problem:
                failures, since = 0, time.monotonic()
            elif waited < PATIENCE_S or not computed or time.monotonic() - since > LONGEST_S:
                failures += 1
                if failures >= FAILURES:
                    self.problem = problem
                    return

    def _knock(self) -> str:
        server = self._server
        if problem := probe.knock(server.repository, server.url("grpc"), PATIENCE_S):
            self.reason = "hung"
        elif self._proxy and (why := doors.is_live(*self._proxy.http_address, PATIENCE_S)):
            self.reason, problem = "proxy", f"proxy: {why}"
        return problem

    def _speak(self) -> str:
        self.reason = "hung"
        return doors.speak(*self._server.http_address, 2 * PATIENCE_S)

    def _cpu_s(self) -> float:
        server, proxy = self._pids
        return processes.cpu_s([*processes.stubs(server), proxy])

    def _frames(self) -> str:
        lines = self._server.metrics().splitlines()
        return "\n".join(line for line in lines if line.startswith("fish_llama_frames_total"))
