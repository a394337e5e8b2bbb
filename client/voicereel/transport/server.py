"""One server: its connection, what it does now, and whether it can be reached."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from voicereel.checkpoint import described_in
from voicereel.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
    ServerUnavailable,
)
from voicereel.transport.address import Address
from voicereel.transport.base import Transport
from voicereel.transport.grpc import GrpcTransport
from voicereel.transport.http import HttpTransport
from voicereel.transport.repeats import NoConnection, Repeats

SHUN_S = (1.0, 10.0)  # a server that could not be reached is the last choice so long, from ... to


class Server:
    """One of the servers.

    Attributes:
        address: Of its service.
        transport: The connection, which all callers share.
        shunned_until: Until when it is the last choice, on the monotonic clock.
        checkpoint_id: Of its checkpoint; "" if it is not known.
        checked_until: Until when that is believed.
    """

    def __init__(self, address: Address) -> None:
        transports = {"grpc": GrpcTransport, "http": HttpTransport}
        self.address = address
        self.transport: Transport = transports[address.protocol](address)
        self.shunned_until = self.checked_until = 0.0
        self.checkpoint_id = ""
        self._failures = 0  # one after another
        self._busy: set[object] = set()  # of which adding and removing are atomic

    @property
    def url(self) -> str:
        """HOST:PORT."""
        return str(self.address)

    @property
    def in_flight(self) -> int:
        """Calls that it answers now, streams included."""
        return len(self._busy)

    @property
    def is_up(self) -> bool:
        """Whether it could be reached the last time."""
        return not self._failures

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count a call in flight."""
        token = object()
        self._busy.add(token)
        try:
            yield
        finally:
            self._busy.discard(token)

    def failed(self, problem: Exception) -> None:
        """Shun it for a while, unless it only has too much to do."""
        wait_s = getattr(problem, "retry_after_s", 0.0)
        if not isinstance(problem, Overloaded):
            self._failures += 1
            self.checked_until = 0.0
            wait_s = min(SHUN_S[1], SHUN_S[0] * 2 ** (self._failures - 1))
        self.shunned_until = time.monotonic() + min(wait_s, SHUN_S[1]) * random.uniform(1, 1.25)

    def succeeded(self) -> None:
        """Take it as before."""
        self._failures, self.shunned_until = 0, 0.0

    def is_ready(self, model: str | None, timeout_s: float) -> bool:
        """Whether a model, or the server as a whole (None), is ready."""
        for attempt in range(2):  # the second on a new connection
            try:
                return self.transport.is_ready(model, timeout_s)
            except NoConnection as problem:
                if attempt:
                    Repeats(self.address, 0, 0).or_raise(problem, audio_came=True)
        return False

    def told_checkpoint_id(self, timeout_s: float, request_id: str) -> str:
        """What the server says now; "" if it is of a version that does not tell.

        Raises:
            NoConnection: If it does not answer.
        """
        try:
            answer = self.transport.infer("fish_checkpoint", {}, timeout_s, request_id)
            told = described_in(answer).get("checkpoint_id")
        except (DeadlineExceeded, NoConnection) as problem:  # the request itself was not sent
            raise NoConnection(str(problem), sent=False) from None
        except (ServerUnavailable, ServerError, InvalidRequest):  # the request itself will tell
            return ""
        return told if isinstance(told, str) else ""
