"""One simulated replica: the LLaMA stage with its queue and slots, and the decoder behind it.

A step of the LLaMA stage gives each request with a slot one frame. Frames leave as windows, which
the decoder takes in their order, windows of equal shape in one batch. Both stages compute on the
same machine: while both are at work, each has half of it. So a first window waits behind windows of
streams that are heard already, and that is most of the first audio's time under load.
"""

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import simpy

from benchmarks.capacity.stages import Stages
from engine.schedule.chunk_schedule import ChunkSchedule, frames_in_batch

FIRST_FRAMES = 8  # of the first window at default options
FRAME_S = 2048 / 44_100
_FRAMES = np.zeros((4096, 1), np.int64)  # codes, of which only the number matters
MOST_WINDOWS = 16  # in a batch of the decoder, as its config.pbtxt says


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
    schedule: ChunkSchedule = field(init=False, repr=False, compare=False)  # of its windows


class _Window(NamedTuple):
    request: Request
    frames: int
    shape: int  # equal for windows that are decoded together
    is_last: bool


class _Machine:
    """Computes for several stages at a time; each has an equal part of it."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env, self._busy, self._changed = env, 0, env.event()

    def work(self, seconds: float) -> Generator[Any, Any, None]:
        """Work that would take so long alone."""
        self._change(1)
        while seconds > 1e-9:
            began, busy = self._env.now, self._busy
            yield self._env.timeout(seconds * busy) | self._changed
            seconds -= (self._env.now - began) / busy
        self._change(-1)

    def _change(self, by: int) -> None:
        self._busy += by
        changed, self._changed = self._changed, self._env.event()
        changed.succeed()


class Replica:
    """Takes steps while it has requests, and decodes their windows.

    Attributes:
        active: Requests with a slot.
        waiting: Requests without one.
        slots: Requests with a slot, at most.
        load: Requests that have not ended.
        up: Whether routers send to it; a replica that hangs is up until they notice.
    """

    def __init__(
        self,
        env: simpy.Environment,
        stages: Stages,
        left: Callable[["Replica", Request, bool], None],
        firsts_first: bool = False,
    ) -> None:
        """`left` is told of requests that end here, and whether they are lost."""
        self._env, self._stages, self._left = env, stages, left
        self._firsts_first = firsts_first
        self.slots = stages.slots
        self._forget()
        self._life = self._steps = 0
        self.start()

    def _forget(self) -> None:
        self._inside: dict[int, Request] = {}  # by id, in the order of their arrival
        self.active: list[Request] = []
        self.waiting, self._windows = deque[Request](), deque[_Window]()

    @property
    def load(self) -> int:
        return len(self._inside)

    def send(self, request: Request) -> None:
        """Take a request."""
        request.tries += 1
        self._inside[id(request)] = request
        self.waiting.append(request)
        self._ring(0)

    def stop(self) -> None:
        """Make no more frames, and tell no one."""
        self._life += 1

    def vanish(self) -> None:
        """Lose all requests, since routers have noticed."""
        self.up = False
        gone = list(self._inside.values())
        self._forget()
        for request in gone:
            self._left(self, request, True)

    def start(self) -> None:
        """Take requests."""
        self.up, self._bells = True, [self._env.event(), self._env.event()]
        machine = _Machine(self._env)
        self._env.process(self._speak(machine, self._life))
        self._env.process(self._decode(machine, self._life))

    def _ring(self, stage: int) -> None:
        if not self._bells[stage].triggered:
            self._bells[stage].succeed()

    def _asleep(self, stage: int) -> simpy.Event:
        """Until a stage has something to do."""
        self._bells[stage] = self._env.event()
        return self._bells[stage]

    def _speak(self, machine: _Machine, life: int) -> Generator[Any, Any, None]:
        while True:
            joined = 0
            while self.waiting and len(self.active) < self.slots:
                request = self.waiting.popleft()
                request.done = 0
                request.schedule = ChunkSchedule(FIRST_FRAMES, 0, 0, FRAME_S, self._now)
                self.active.append(request)
                joined += 1
            if not self.active:
                yield self._asleep(0)
                continue
            step_s = self._stages.step_s(len(self.active)) + joined * self._stages.prompt_s
            yield from machine.work(step_s)
            if life != self._life:
                return
            self._frame()

    def _now(self) -> float:
        return self._env.now

    def _frame(self) -> None:
        """Every active request has one more frame."""
        self._steps += 1
        streams = len(self.active)
        for request in self.active:
            request.done += 1
            schedule, is_last = request.schedule, request.done >= request.frames
            if is_last or schedule.due(request.done, self._steps, streams):
                shape = frames_in_batch(streams) if schedule.index else 0
                window = schedule.cut(_FRAMES[: request.done], "length" if is_last else "")
                self._queue(_Window(request, window.num_frames, shape, is_last))
        self.active = [request for request in self.active if request.done < request.frames]

    def _queue(self, window: _Window) -> None:
        if self._firsts_first and not window.shape:
            behind = next((i for i, w in enumerate(self._windows) if w.shape), len(self._windows))
            self._windows.insert(behind, window)
        else:
            self._windows.append(window)
        self._ring(1)

    def _decode(self, machine: _Machine, life: int) -> Generator[Any, Any, None]:
        while True:
            if not self._windows:
                yield self._asleep(1)
                continue
            batch = [self._windows.popleft()]
            while (self._windows and len(batch) < MOST_WINDOWS
                   and self._windows[0].shape == batch[0].shape):  # fmt: skip
                batch.append(self._windows.popleft())
            frames = sum(window.frames for window in batch)
            yield from machine.work(self._stages.decode_s(frames, len(batch), self.load))
            if life != self._life:
                return
            for window in batch:
                request = window.request
                if request.first_s is None:
                    request.first_s = self._env.now - request.arrived_s + self._stages.beside_s
                if window.is_last:
                    del self._inside[id(request)]
                    self._left(self, request, False)
