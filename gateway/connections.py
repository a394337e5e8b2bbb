"""Callers who connect and ask nothing: they are let go, and never take all descriptors."""

import asyncio
import resource
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_S = 75.0  # seconds that a connection may take to its next request, headers included
_MOST_DESCRIPTORS = 65_536  # a connection is one
_OTHERS = 200  # descriptors that are no connections


def allow_connections() -> int:
    """Take as many descriptors as the system gives, and how many connections that allows.

    A container often begins with a soft limit of 1,024. The launcher's own way to do this is not in
    the gateway's image.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    return max(most - _OTHERS, most // 2)


class Connection(H11Protocol):
    """A connection whose requests must come in time, header and all.

    When there are more than `most`, the one that has asked nothing for the longest is closed.
    """

    most = _MOST_DESCRIPTORS
    _idle: ClassVar[dict["Connection", asyncio.TimerHandle]] = {}  # of all, the longest first

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look()
        if len(self.connections) > self.most and self._idle:
            next(iter(self._idle))._close()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._asked()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Whether a request is waited for; a part of its header changes nothing."""
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._asked()
        elif self not in self._idle:
            self._idle[self] = self.loop.call_later(IDLE_S, self._close)

    def _asked(self) -> None:
        if timer := self._idle.pop(self, None):
            timer.cancel()

    def _close(self) -> None:
        self._asked()
        self.transport.abort()
