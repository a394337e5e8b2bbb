"""The tritonservers behind the gateway: the client's, which never waits for one to come back."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from gateway.traces import Span, Traces
from voicereel import Client
from voicereel.caller import current_caller
from voicereel.transport.servers import Server

T = TypeVar("T")


class Servers:
    """All of them; may be shared by threads. `voicereel.transport.servers` says who is asked."""

    def __init__(self, urls: list[str], timeout_s: float, traces: Traces | None = None) -> None:
        """Prepare connections.

        Args:
            urls: HOST:PORT of gRPC services, or dns:///NAME:PORT for all addresses of a name.
            timeout_s: Seconds that a request may take.
            traces: Records a span of each attempt to stream.
        """
        # Callers have their own patience, and are told at once.
        self._client = Client(urls, timeout_s=timeout_s, return_s=0)
        self._traces = traces or Traces()

    def all(self) -> list[Server]:
        """Every server, names resolved."""
        return self._client.servers()

    def stream(self, speak: Callable[[Client], Generator[T]]) -> Generator[T]:
        """Stream what `speak` begins; errors are the client's."""
        caller = current_caller()
        if caller.request_id:  # else it stands for nobody, and is shared
            caller.attempt = self._attempt
        return speak(self._client)

    @contextmanager
    def _attempt(self, url: str) -> Iterator[Span]:
        """Record a span of a stream, from which the server's go on."""
        caller = current_caller()
        asked = caller.metadata
        with self._traces.span("stream", "CLIENT", asked) as span:
            span.note(server__address=url)
            caller.metadata = span.context
            try:
                yield span
            except Exception as error:
                span.failed(str(error))
                raise
            finally:
                caller.metadata = asked

    def call(self, work: Callable[[Client], T]) -> T:
        """Do what `work` does; errors are the client's."""
        return work(self._client)

    def any_ready(self) -> bool:
        """Whether some server takes requests now."""
        return self._client.ready()

    def close(self) -> None:
        """Disconnect."""
        self._client.close()
