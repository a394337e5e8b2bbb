"""One simulated replica: a queue, slots, and steps whose time depends on how many share them."""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

import simpy

FIRST_FRAMES = 8  # of the first window at default options


class Service(Protocol):
    """The times of a replica; `voicereel.capacity.Machine` is such."""

    @property
    def slots(self) -> int: ...
    def step_s(self, streams: float) -> float: ...
    def first_s(self, streams: float, *, p95: bool) -> float: ...


@dataclass
class Request:
    """A request for speech.

    Attributes:
        arrived_s: When.
        frames: Of its speech.
        first_s: From its arrival to its first audio; None before it.
        tries: Replicas that it was sent to.
        cut: Whether its replica died after the first audio.
    """

    arrived_s: float
    frames: int
    first_s: float | None = None
    tries: int = 0
    cut: bool = False
    done: int = field(default=0, repr=False)  # frames


class Replica:
    """Takes steps while it has requests.

    Attributes:
        active: Requests with a slot.
        waiting: Requests without one.
        slots: Requests with a slot, at most.
        up: Whether routers send to it; a replica that hangs is up until they notice.
    """

    def __init__(
        self,
        env: simpy.Environment,
        service: Service,
        left: Callable[["Replica", Request, bool], None],
    ) -> None:
        """`left` is told of requests that end here, and whether they are lost."""
        self._env, self._service, self._left = env, service, left
        self.slots = service.slots
        self.active: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.up = True
        self._life = 0
        self.start()

    @property
    def load(self) -> int:
        """Requests in it."""
        return len(self.active) + len(self.waiting)

    def send(self, request: Request) -> None:
        """Take a request."""
        request.tries += 1
        self.waiting.append(request)
        if not self._wake.triggered:
            self._wake.succeed()

    def stop(self) -> None:
        """Make no more frames, and tell no one."""
        self._life += 1

    def vanish(self) -> None:
        """Lose all requests, since routers have noticed."""
        self.up = False
        gone, self.active, self.waiting = [*self.active, *self.waiting], [], deque()
        for request in gone:
            self._left(self, request, True)

    def start(self) -> None:
        """Take requests."""
        self.up, self._wake = True, self._env.event()
        self._env.process(self._run(self._life))

    def _run(self, life: int) -> Generator[Any, Any, None]:
        while True:
            while self.waiting and len(self.active) < self._service.slots:
                self.active.append(self.waiting.popleft())
            if not self.active:
                self._wake = self._env.event()
                yield self._wake
            else:
                yield self._env.timeout(self._service.step_s(len(self.active)))
            if life != self._life:
                return
            self._frame()

    def _frame(self) -> None:
        """Every active request has one more frame."""
        streams = len(self.active)
        for request in self.active:
            request.done += 1
            if request.done == min(FIRST_FRAMES, request.frames):
                steps = FIRST_FRAMES * self._service.step_s(streams)
                # What the first audio takes beside its steps: prefill, decoder, the way.
                beside = max(0.0, self._service.first_s(streams, p95=False) - steps)
                request.first_s = self._env.now - request.arrived_s + beside
        ended = [request for request in self.active if request.done >= request.frames]
        self.active = [request for request in self.active if request.done < request.frames]
        for request in ended:
            self._left(self, request, False)
