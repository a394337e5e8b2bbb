"""On whose behalf calls are made: a caller has an id, and may leave while a call is in flight.

A gateway serves many callers with one client:

    caller = Caller("req-7")
    with caller.active():  # in the thread that iterates
        for chunk in client.stream("Good morning, Alice. Let us begin."):
            ...
    caller.leave()  # in any other thread: the stream above raises `Cancelled` at once
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol


class Events(Protocol):
    """Is told what happens to a stream."""

    def event(self, name: str) -> None:
        """Something has happened now."""
        ...


class _Unheard:
    def event(self, name: str) -> None:
        pass


class Caller:
    """Calls that begin while a caller is `active` carry its id; streams end when it leaves.

    Attributes:
        request_id: Id of its requests in the server's log and traces; "": one drawn for each.
        metadata: gRPC metadata, or HTTP headers, of its calls. With a W3C `traceparent` the
            server's spans go on from the caller's.
        attempt: Is entered, with the server's URL, around each attempt to stream from one, and told
            of its "first chunk".
    """

    def __init__(self, request_id: str = "", metadata: tuple[tuple[str, str], ...] = ()) -> None:
        self.request_id, self.metadata = request_id, metadata
        self.attempt: Callable[[str], AbstractContextManager[Events]] = lambda _: nullcontext(
            _Unheard()
        )
        self._lock, self._endings = threading.Lock(), set[Callable[[], None]]()
        self._left = False

    @property
    def has_left(self) -> bool:
        return self._left

    def leave(self) -> None:
        """End all streams of this caller, those to come as well; from any thread, any often."""
        with self._lock:
            self._left = True
            endings = list(self._endings)
        for end in endings:
            end()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this the caller of what is called in the context."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def on_leave(self, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` when the caller leaves, or now if it has left; returns how to forget that."""
        with self._lock:
            self._endings.add(end)
            has_left = self._left
        if has_left:
            end()

        def forget() -> None:
            with self._lock:
                self._endings.discard(end)

        return forget


_NOBODY = Caller()  # never leaves
_current: ContextVar[Caller] = ContextVar("caller", default=_NOBODY)


def current_caller() -> Caller:
    """The caller that is active here."""
    return _current.get()
