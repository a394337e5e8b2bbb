"""Who gets the next request: what a router can know, and what it does with it.

| policy | sends to |
|--|--|
| random | any |
| round robin | the next |
| published slots | the one whose published load is lowest, with this gateway's own requests since |
| two choices | of two at random the one with fewer requests of this gateway |
| least in flight | the one with the fewest requests of this gateway, as `gateway/servers.py` does |
| slots-aware | as least in flight, but not to those that publish no free slot |
"""

import random
from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.capacity.replica import Replica

PUBLISH_S = 0.5  # seconds between two publications of a replica's slots
Choice = Callable[["Gateway", Sequence[int]], int]


class Gateway:
    """One of several routers, which know of each other's requests only what replicas publish.

    Attributes:
        sent: Requests in flight by replica, of this gateway.
    """

    def __init__(self, replicas: Sequence[Replica], choose: Choice, rng: random.Random) -> None:
        self.replicas, self._choose, self.rng = replicas, choose, rng
        self.sent: Counter[int] = Counter()
        self.published: list[int] = [0] * len(replicas)
        self.since: Counter[int] = Counter()  # requests since the publication
        self.turn = rng.randrange(len(replicas))

    def pick(self) -> int:
        """The index of a replica that is up, or -1."""
        up = [index for index, replica in enumerate(self.replicas) if replica.up]
        return self._choose(self, up) if up else -1

    def refresh(self, loads: list[int]) -> None:
        """Read what replicas publish: their requests, with a slot or waiting."""
        self.published = loads
        self.since.clear()


def _random(gateway: Gateway, up: Sequence[int]) -> int:
    return gateway.rng.choice(up)


def _round_robin(gateway: Gateway, up: Sequence[int]) -> int:
    gateway.turn += 1
    return up[gateway.turn % len(up)]


def _least(gateway: Gateway, up: Sequence[int]) -> int:
    # From a random place on, or all gateways would send to the same of equals.
    start = gateway.rng.randrange(len(up))
    return min((*up[start:], *up[:start]), key=lambda index: gateway.sent[index])


def _two_choices(gateway: Gateway, up: Sequence[int]) -> int:
    return min(gateway.rng.choice(up), gateway.rng.choice(up), key=lambda i: gateway.sent[i])


def _published(gateway: Gateway, up: Sequence[int]) -> int:
    def load(index: int) -> int:
        return gateway.published[index] + gateway.since[index]

    start = gateway.rng.randrange(len(up))
    return min((*up[start:], *up[:start]), key=load)


def _slots_aware(gateway: Gateway, up: Sequence[int]) -> int:
    free = [index for index in up if gateway.published[index] < gateway.replicas[index].slots]
    return _least(gateway, free or up)


POLICIES: dict[str, Choice] = {
    "random": _random,
    "round robin": _round_robin,
    "published slots": _published,
    "two choices": _two_choices,
    "least in flight": _least,
    "slots-aware": _slots_aware,
}
