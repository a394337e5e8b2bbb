"""The tritonservers behind the gateway: which one speaks, and what happens when it cannot."""

import itertools
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from gateway.traces import Span, Traces
from voicereel import Client, Overloaded, ServerUnavailable
from voicereel.caller import current_caller
from voicereel.errors import VoiceReelError

T = TypeVar("T")
DNS = "dns:///"  # as gRPC writes a name that stands for several addresses
_RESOLVE_S = 15.0  # a new pod is found that soon
_SHUN_S = 2.0  # a server that could not be reached is the last choice for so long

log = logging.getLogger("voicereel.gateway")


class Server:
    """One tritonserver.

    Attributes:
        url: HOST:PORT of its gRPC service.
        client: The client that all callers share.
        in_flight: Streams that it is speaking for this gateway.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.client, self.in_flight = url, Client(url, timeout_s=timeout_s, return_s=0), 0
        self.shunned_until = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a stream in flight."""
        with self._lock:
            self.in_flight += 1
        try:
            yield
        finally:
            with self._lock:
                self.in_flight -= 1


class Servers:
    """All of them; may be shared by threads.

    The audio of a request does not depend on the server, since voices travel with it.
    """

    def __init__(self, urls: list[str], timeout_s: float, traces: Traces | None = None) -> None:
        """Prepare connections.

        Args:
            urls: HOST:PORT of gRPC services, or dns:///NAME:PORT for all addresses of a name.
            timeout_s: Seconds that a request may take.
            traces: Records a span of each attempt to stream.
        """
        self._urls, self._timeout_s, self._traces = urls, timeout_s, traces or Traces()
        self._servers: dict[str, Server] = {}
        self._resolved, self._lock, self._turn = 0.0, threading.Lock(), itertools.count()

    def all(self) -> list[Server]:
        """Every server, names resolved; one that is no longer named may end its streams."""
        with self._lock:
            names = any(url.startswith(DNS) for url in self._urls)
            if not self._servers or (names and time.monotonic() - self._resolved > _RESOLVE_S):
                found = list(dict.fromkeys(itertools.chain(*map(_addresses, self._urls))))
                known = self._servers
                self._servers = {u: known.get(u) or Server(u, self._timeout_s) for u in found}
                self._resolved = time.monotonic()
            return list(self._servers.values())

    def stream(self, speak: Callable[[Client], Generator[T]]) -> Generator[T]:
        """Stream from the server with the fewest streams in flight.

        A server that cannot be reached, is not ready, or has a full queue is passed over, as long
        as nothing has come from it.

        Args:
            speak: Begins the stream with a server's client.

        Raises:
            VoiceReelError: The error of the stream, or of the last server that was asked.
        """
        problem: VoiceReelError = ServerUnavailable("no address of a server was found")
        for server in self._by_load():
            with (
                server.busy(),
                self._attempt(server) as span,
                closing(speak(server.client)) as sounds,
            ):
                try:
                    first = next(sounds)
                except StopIteration:
                    return
                except (ServerUnavailable, Overloaded) as error:
                    span.failed(str(error))
                    problem = error
                    log.warning("server %s is passed over: %s", server.url, error)
                    if isinstance(error, ServerUnavailable):
                        server.shunned_until = time.monotonic() + _SHUN_S
                    continue
                span.event("first chunk")
                yield first
                yield from sounds
                return
        raise problem

    @contextmanager
    def _attempt(self, server: Server) -> Iterator[Span]:
        """Record a span, from which the server's go on."""
        caller = current_caller()
        asked = caller.metadata
        with self._traces.span("stream", "CLIENT", asked) as span:
            span.note(server__address=server.url)
            if caller.request_id:  # else it stands for nobody, and is shared
                caller.metadata = span.context
            try:
                yield span
            finally:
                caller.metadata = asked

    def call(self, work: Callable[[Client], T]) -> T:
        """Call a server, chosen as `stream` chooses."""

        def once(client: Client) -> Generator[T]:
            yield work(client)

        return next(self.stream(once))

    def any_ready(self) -> bool:
        """Whether some server takes requests now."""
        return any(server.client.ready() for server in self._by_load())

    def close(self) -> None:
        """Disconnect."""
        for server in self._servers.values():
            server.client.close()

    def _by_load(self) -> list[Server]:
        now, turn, servers = time.monotonic(), next(self._turn), self.all()
        rotated = [servers[(turn + i) % len(servers)] for i in range(len(servers))]
        return sorted(rotated, key=lambda s: (s.shunned_until > now, s.in_flight))


def _addresses(url: str) -> list[str]:
    if not url.startswith(DNS):
        return [url]
    host, _, port = url.removeprefix(DNS).rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        log.warning("cannot resolve %s: %s", host, error)
        return []
    hosts = {str(address[0]) for *_, address in found}
    return sorted(f"[{h}]:{port}" if ":" in h else f"{h}:{port}" for h in hosts)
