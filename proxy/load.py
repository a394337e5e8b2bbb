"""Refuses what would wait too long: a queue that is bounded by time.

The server works on as many requests side by side as the LLaMA stage has slots, and does most in a
second when all are taken; so these are given out. One more waits until a slot is free:

    wait = time of a request with all slots taken / slots x requests that wait, with itself

The proxy learns that time from what recent requests took to their first answer, alone and beside
others, per unit of their size. Units are the bytes of the text where an answer comes whole, since
that takes as long as the speech is, and 1 for a stream, whose first chunk has one length. Until
requests side by side have been measured, each is taken to delay the others by a quarter of what it
takes alone. Requests in flight are never ended for others.
"""

import time
from dataclasses import dataclass, field

from ensemble.contract.tensors import FRONT_DOORS
from proxy.refusals import overloaded

LONGEST_WAIT_S = 1.0  # a listener takes a second of silence before an answer for a pause
WEIGHT = 0.3  # of a new measurement: the last three or so count
_FORGET_S = 5.0  # after so long without a measurement the delay is unknown: load may have gone
# Of what a request takes alone, what one beside it adds. Measured: 16 whole answers side by side on
# two cores take 5 times as long as one, so that each adds 4/15.
DELAY = 0.25
_SHORTER = 0.5  # weight of a measurement that is shorter than what is held: the first ones are slow
SLOTS = 16  # requests at a time, until the server's metrics say more
_LEAST_BYTES = 16  # of a text: a short one takes its time too
_SPEECH = tuple(door for door in FRONT_DOORS if door != "fish_encode")


def group_of(model: str) -> str:
    """What shares one queue with a model: all that speak go through one LLaMA stage."""
    return "speech" if model in _SPEECH else model


def units_of(model: str, text_bytes: int, request_bytes: int) -> float:
    """The size of a request, in which its time to the first answer is counted."""
    if model.endswith("_stream"):
        return 1
    return max(_LEAST_BYTES, text_bytes if model in _SPEECH else request_bytes)


@dataclass
class _Kind:
    """What recent requests of one model took, in seconds for a unit."""

    alone_s: float = 0.0  # with nothing beside it
    delay_s: float = 0.0  # more for each request beside it
    units: float = 1.0  # of the last one
    since: float = field(default=-1e9)

    def measure(self, took_s: float, units: float, beside: float) -> None:
        """Take in a request, which had so many beside it on average."""
        cost_s, self.units = took_s / units, units
        is_first = time.monotonic() - self.since > _FORGET_S
        if not self.alone_s:
            self.alone_s = cost_s / (1 + DELAY * beside)
        elif cost_s < self.alone_s:
            self.alone_s += _SHORTER * (cost_s - self.alone_s)
        elif beside < 0.5:
            self.alone_s += (1 if is_first else WEIGHT) * (cost_s - self.alone_s)
        if is_first:
            self.delay_s = DELAY * self.alone_s
        if beside >= 0.5:
            more_s = max(0.0, cost_s - self.alone_s) / beside
            self.delay_s += WEIGHT * (more_s - self.delay_s)
        self.since = time.monotonic()

    def delay_now_s(self) -> float:
        is_old = time.monotonic() - self.since > _FORGET_S
        return DELAY * self.alone_s if is_old else self.delay_s


@dataclass
class Asked:
    """One request in flight.

    Attributes:
        model: Asked.
        units: Its size.
    """

    model: str
    units: float
    beside: int
    begin: float
    answered: bool = False


class Load:
    """What is in flight, and what one more would wait.

    Attributes:
        slots: Requests that the server works on at a time.
    """

    def __init__(self, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        """`longest_wait_s`: more is refused; 0: nothing is."""
        self._longest_s, self.slots = longest_wait_s, SLOTS
        self._in_flight: dict[str, int] = {}
        self._kinds: dict[str, _Kind] = {}

    @property
    def in_flight(self) -> int:
        """Requests of all kinds."""
        return sum(self._in_flight.values())

    def expected(self, model: str, units: float) -> tuple[float, float] | None:
        """Seconds until a new request's first answer, and how many of them it waits for a slot.

        None if nothing is known, or nothing is in flight.
        """
        kind, now = self._kinds.get(model), self._in_flight.get(group_of(model), 0)
        if kind is None or not now:
            return None
        slots = self._slots_of(model)
        took_s = units * (kind.alone_s + kind.delay_now_s() * min(now, slots))
        wait_s = took_s / slots * max(0, now - slots + 1)
        return took_s + wait_s, wait_s

    def _slots_of(self, model: str) -> int:
        return self.slots if group_of(model) == "speech" else 1  # an encoder takes one by one

    def longest_expected_s(self) -> float:
        """The longest wait that one more request like the last ones would meet, in seconds."""
        found = (self.expected(model, kind.units) for model, kind in self._kinds.items())
        return max((each[1] for each in found if each), default=0.0)

    def admit(self, model: str, units: float, left_s: float | None) -> Asked:
        """Count a request in, to be counted out by `end`.

        Args:
            model: Asked.
            units: Its size.
            left_s: Seconds that its caller gives it; None: any number.

        Raises:
            Refusal: If it would wait too long.
        """
        group = group_of(model)
        now = self._in_flight.get(group, 0)
        if self._longest_s and model in FRONT_DOORS:  # fish_cancel must always get through
            self._refuse_waiting(model, units, left_s, now)
        self._in_flight[group] = now + 1
        return Asked(model, units, now, time.monotonic())

    def _refuse_waiting(self, model: str, units: float, left_s: float | None, now: int) -> None:
        found = self.expected(model, units)
        if found is None:
            most = max(2, self._slots_of(model))
            if now >= most:
                said = f"{now} requests are in flight and none of its kind has been answered yet"
                raise overloaded(model, f"{said}, expected {most} at most.", 0.5)
            return
        expected_s, wait_s = found
        if wait_s > self._longest_s:
            raise overloaded(
                model,
                f"this request would wait {wait_s:.1f} s for a slot, "
                f"{self._longest_s:g} s are allowed.",
                wait_s - self._longest_s + 0.1,
            )
        if left_s is not None and expected_s > left_s:
            raise overloaded(
                model,
                f"this request would take {expected_s:.1f} s to its first answer, "
                f"its caller gives it {left_s:.1f} s.",
                max(0.1, expected_s - left_s),
            )

    def answered(self, asked: Asked) -> None:
        """Note the first answer of a request; later ones change nothing."""
        if asked.answered:
            return
        asked.answered = True
        took_s = time.monotonic() - asked.begin
        # Those that came before it, which it waits for in any case. If there were none, those that
        # came later count half: it was not alone.
        beside = asked.beside or max(0, self._in_flight[group_of(asked.model)] - 1) / 2
        self._kinds.setdefault(asked.model, _Kind()).measure(took_s, asked.units, beside)

    def end(self, asked: Asked) -> None:
        """Count a request out."""
        self._in_flight[group_of(asked.model)] -= 1
