"""An HTTP connection whose time is limited as a whole, however slowly its bytes come."""

import http.client
import io
import socket
import time
from typing import Any

from voicereel.transport import tls
from voicereel.transport.address import Address


class TimedConnection(http.client.HTTPConnection):
    """A connection for one call: connecting, sending and receiving take `timeout_s` together.

    A socket's own timeout begins anew with each byte.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        super().__init__(address.host, address.port, timeout=timeout_s)
        self._address, self._deadline = address, time.monotonic() + timeout_s

    def connect(self) -> None:
        super().connect()
        if self._address.is_secure:
            name = self._address.name or self._address.host
            self.sock = tls.context().wrap_socket(self.sock, server_hostname=name)
        self.sock: Any = _TimedSocket(self.sock, self._deadline)


class _TimedSocket:
    """What http.client needs of a socket."""

    def __init__(self, inner: socket.socket, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def sendall(self, data: bytes) -> None:
        self._inner.settimeout(_left(self._deadline))
        self._inner.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._inner, self._deadline))

    def close(self) -> None:
        self._inner.close()


class _TimedReader(io.RawIOBase):
    def __init__(self, inner: socket.socket, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline
        self._raw = inner.makefile("rb", buffering=0)  # keeps the socket open until it is read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._inner.settimeout(_left(self._deadline))
        return self._raw.readinto(buffer) or 0

    def close(self) -> None:
        self._raw.close()
        super().close()


def _left(deadline: float) -> float:
    """Seconds left, more than none.

    Raises:
        TimeoutError: If there are none.
    """
    if (left := deadline - time.monotonic()) <= 0:
        raise TimeoutError("timed out")
    return left
