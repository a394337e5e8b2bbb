"""Many replicas under load: discrete events, deterministic by seed."""

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import simpy

from benchmarks.capacity.replica import FRAME_S, Replica, Request
from benchmarks.capacity.router import POLICIES, PUBLISH_S, Gateway
from benchmarks.capacity.stages import Service, Stages
from voicereel.capacity import between

MEAN_FRAMES = 97  # of `speech`
_MOST_TRIES = 3  # of a request whose replica dies before its first audio
Arrivals = Sequence[tuple[float, int]]  # seconds, frames


@dataclass(frozen=True)
class Scenario:
    """Attributes:
    service: The times of a replica.
    replicas: How many.
    policy: A name in `POLICIES`.
    gateways: Routers in front of them, each of which knows its own requests.
    deaths: When which replica dies, and for how many seconds.
    notices_s: Seconds after which a router notices that a replica has died; 0: its port refuses.
    repeats: Whether routers repeat requests that had no audio yet.
    firsts_first: Whether decoders take first windows before others, as the product nearly does.
    seed: Of the routers' choices.
    """

    service: Service | Stages
    replicas: int
    policy: str = "least in flight"
    gateways: int = 1
    deaths: tuple[tuple[float, int, float], ...] = ()
    notices_s: float = 0.0
    repeats: bool = True
    firsts_first: bool = False
    seed: int = 0


@dataclass
class Outcome:
    """Attributes:
    requests: All that arrived.
    in_flight: Pairs of seconds and streams in flight.
    """

    requests: list[Request]
    in_flight: list[tuple[float, int]] = field(default_factory=list)

    def first_audio(self, share: float, begin_s: float = 0.0, end_s: float = 1e9) -> float:
        """A percentile of the seconds to the first audio, of requests that arrived in a time."""
        asked = [r for r in self.requests if begin_s <= r.arrived_s < end_s]
        times = sorted(float("inf") if r.first_s is None else r.first_s for r in asked)
        return times[min(len(times) - 1, int(share * len(times)))]

    @property
    def failed(self) -> int:
        """Requests that got no audio, or were cut off."""
        return sum(request.first_s is None or request.cut for request in self.requests)


def poisson(
    rate: float, seconds: float, frames: Callable[[random.Random], int], seed: int
) -> Arrivals:
    """Random arrivals, so many a second on average."""
    rng, now, found = random.Random(seed), 0.0, []
    while (now := now + rng.expovariate(rate)) < seconds:
        found.append((now, frames(rng)))
    return found


def speech(rng: random.Random) -> int:
    """Frames of a request: sentences of 4.6 s on average, from 1 to 20 s."""
    return min(430, max(22, round(rng.lognormvariate(4.45, 0.55))))


def rate_for(service: Service, replicas: int, share: float, mean_frames: float) -> float:
    """Arrivals a second that ask for so large a share of what the replicas make with full slots."""
    each = service.slots / service.step_s(service.slots)  # frames a second
    return replicas * share * each / mean_frames


def real_time_streams(service: Service) -> int:
    """The most streams of a replica that are played without a pause."""
    fits = (n for n in range(service.slots, 0, -1) if service.step_s(n) <= FRAME_S)
    return next(fits, 1)


def staged(service: Service | Stages) -> Stages:
    """A replica's times as those of its stages.

    What a step of all takes beyond the LLaMA stage's own (`llama_step_s`, where that was measured)
    is the decoder's.
    """
    if isinstance(service, Stages):
        return service
    steps: Any = getattr(service, "llama_step_s", ())
    levels: Any = getattr(service, "streams", ())

    def step_s(streams: float) -> float:
        return between(streams, levels, steps) if steps else service.step_s(streams)

    def decode_s(frames: int, windows: int, streams: int) -> float:
        return frames * max(0.0, service.step_s(streams) - step_s(streams)) / streams

    return with_beside(Stages(service.slots, step_s, decode_s), service.first_s(1, p95=False))


def with_beside(stages: Stages, first_s: float) -> Stages:
    """Stages with what the first audio of a stream alone takes beside them."""
    [request] = simulate(Scenario(replace(stages, beside_s=0.0), 1), [(0.0, MEAN_FRAMES)]).requests
    return replace(stages, beside_s=max(0.0, first_s - (request.first_s or 0.0)))


def simulate(scenario: Scenario, arrivals: Arrivals) -> Outcome:
    """Run a scenario until all requests have ended."""
    run = _Run(scenario, arrivals)
    run.env.run()
    return run.outcome


class _Run:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario, arrivals: Arrivals) -> None:
        self.env, self._scenario = simpy.Environment(), scenario
        self._rng = random.Random(scenario.seed)
        stages = staged(scenario.service)
        self._replicas = [
            Replica(self.env, stages, self._ended, scenario.firsts_first)
            for _ in range(scenario.replicas)
        ]
        self._gateways = [
            Gateway(self._replicas, POLICIES[scenario.policy], self._rng)
            for _ in range(scenario.gateways)
        ]
        self.outcome, self._left = Outcome([]), len(arrivals)
        self._sent: dict[int, tuple[Gateway, int]] = {}  # by the id of the request
        self.env.process(self._arrive(arrivals))
        self.env.process(self._publish())
        for death in scenario.deaths:
            self.env.process(self._die(*death))

    def _arrive(self, arrivals: Arrivals) -> Generator[Any, Any, None]:
        for at, frames in arrivals:
            yield self.env.timeout(at - self.env.now)
            request = Request(at, frames)
            self.outcome.requests.append(request)
            self._route(request)

    def _route(self, request: Request) -> None:
        gateway = self._rng.choice(self._gateways)
        index = gateway.pick()
        if index < 0:
            self._left -= 1
            return
        gateway.sent[index] += 1
        gateway.since[index] += 1
        self._sent[id(request)] = gateway, index
        self._replicas[index].send(request)

    def _ended(self, _: Replica, request: Request, lost: bool) -> None:
        gateway, index = self._sent.pop(id(request))
        gateway.sent[index] -= 1
        again = request.first_s is None and self._scenario.repeats and request.tries < _MOST_TRIES
        if lost and again:
            self._route(request)
            return
        request.cut = lost
        self._left -= 1

    def _publish(self) -> Generator[Any, Any, None]:
        """Routers read what replicas publish; and the streams in flight are counted."""
        while self._left > 0:
            loads = [replica.load for replica in self._replicas]
            self.outcome.in_flight.append((self.env.now, sum(loads)))
            for gateway in self._gateways:
                gateway.refresh(loads)
            yield self.env.timeout(PUBLISH_S)

    def _die(self, at: float, index: int, for_s: float) -> Generator[Any, Any, None]:
        yield self.env.timeout(at)
        replica = self._replicas[index]
        replica.stop()
        yield self.env.timeout(self._scenario.notices_s)
        replica.vanish()
        yield self.env.timeout(for_s)
        replica.start()
