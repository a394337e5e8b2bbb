"""The client's streams, which block, for asyncio: a thread each, and no more than allowed."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

from gateway.errors import ApiError
from voicereel import Caller

T = TypeVar("T")
_END = object()


class Streams:
    """Threads for as many streams as may be in flight.

    Attributes:
        in_flight: Streams that have not ended.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self.in_flight, self._lock = limit, 0, threading.Lock()
        self._pool = ThreadPoolExecutor(limit, thread_name_prefix="gateway")

    def open(self, caller: Caller, make: Callable[[], Generator[T]]) -> "Stream[T]":
        """Run a generator in a thread.

        Raises:
            ApiError: 429, if as many streams as allowed are in flight.
        """
        with self._lock:
            if self.in_flight >= self._limit:
                raise ApiError(
                    429, f"{self._limit} requests are in flight, which is the limit. Try again"
                )
            self.in_flight += 1
        stream: Stream[T] = Stream(caller)
        try:
            self._pool.submit(stream.run, make).add_done_callback(self._ended)
        except BaseException:
            self._ended()
            raise
        return stream

    def _ended(self, _: object = None) -> None:
        with self._lock:
            self.in_flight -= 1

    def close(self) -> None:
        """Wait for no one."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Stream(Generic[T]):
    """What a generator gives in a thread, for one reader in asyncio.

    What came is kept until it is read: a slow reader holds no slot of the server.
    """

    def __init__(self, caller: Caller) -> None:
        self.caller, self._loop = caller, asyncio.get_running_loop()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()

    def run(self, make: Callable[[], Generator[T]]) -> None:
        """Run in the thread."""
        try:
            with self.caller.active(), closing(make()) as items:
                for item in items:
                    self._put(item)
                    if self.caller.has_left:
                        break
        except BaseException as error:
            self._put(error)
        finally:
            self._put(_END)

    def _put(self, item: Any) -> None:
        # A loop that was closed meanwhile has no reader.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, item)

    def leave(self) -> None:
        """End it; nothing more is read."""
        self.caller.leave()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        item = await self._arrived.get()
        if item is _END:
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        return item
