"""The tritonservers behind the gateway: the client's, which never waits for one to come back."""

from collections.abc import Callable, Generator
from typing import TypeVar

from voicereel import Client
from voicereel.transport.servers import Server

T = TypeVar("T")


class Servers:
    """All of them; may be shared by threads. `voicereel.transport.servers` says who is asked."""

    def __init__(self, urls: list[str], timeout_s: float) -> None:
        """Prepare connections.

        Args:
            urls: HOST:PORT of gRPC services, or dns:///NAME:PORT for all addresses of a name.
            timeout_s: Seconds that a request may take.
        """
        # Callers have their own patience, and are told at once.
        self._client = Client(urls, timeout_s=timeout_s, return_s=0)

    def all(self) -> list[Server]:
        """Every server, names resolved."""
        return self._client.servers()

    def stream(self, speak: Callable[[Client], Generator[T]]) -> Generator[T]:
        """Stream what `speak` begins; errors are the client's."""
        return speak(self._client)

    def call(self, work: Callable[[Client], T]) -> T:
        """Do what `work` does; errors are the client's."""
        return work(self._client)

    def any_ready(self) -> bool:
        """Whether some server takes requests now."""
        return self._client.ready()

    def close(self) -> None:
        """Disconnect."""
        self._client.close()
