"""Refuses what would wait too long: a queue that is bounded by time.

The model is one sentence: *what a request waits for grows in proportion to the number of requests
in flight.* The proxy knows how long recent requests took to their first answer, per unit of their
size, and how many were in flight beside them; so it knows what one more would take now:

    expected = cost per unit x units x (in flight + 1) / (in flight beside the recent ones + 1)

Its *wait* is what of this is owed to others: expected less what the fastest recent requests took.
For requests of another size units are the bytes of the text (an answer that comes whole takes as
long as it is), and 1 for a stream, whose first chunk has one length. Requests in flight are never
ended for others. As the LLaMA stage works on many at a time, the estimate is too high when few
were in flight and more come; what then gets through corrects it within some requests.
"""

import time
from dataclasses import dataclass, field

from ensemble.contract.tensors import FRONT_DOORS
from proxy.refusals import overloaded

LONGEST_WAIT_S = 1.0  # a listener takes a second's silence before an answer for a pause
WEIGHT = 0.2  # of a new measurement: the last five or so count
_FORGET_S = 5.0  # after so long without a measurement nothing is known: load may have gone
_RISE = 0.02  # the fastest request's time is forgotten by so much a request
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
    """What recent requests of one model took."""

    cost_s: float = 0.0  # for a unit
    beside: float = 0.0  # requests that were in flight then, this one not counted
    fastest_s: float = 0.0  # for a unit
    units: float = 1.0  # of the last one
    since: float = field(default=-1e9)

    def measure(self, took_s: float, units: float, beside: float) -> None:
        cost_s, self.units = took_s / units, units
        is_first = time.monotonic() - self.since > _FORGET_S
        weight = 1.0 if is_first else WEIGHT
        self.cost_s += weight * (cost_s - self.cost_s)
        self.beside += weight * (beside - self.beside)
        slower = self.fastest_s * (1 + _RISE)
        self.fastest_s = min(cost_s, slower) if self.fastest_s else cost_s
        self.since = time.monotonic()


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
        """Seconds until a new request's first answer, and how many of them it waits.

        None if nothing is known of late, or nothing is in flight.
        """
        kind, now = self._kinds.get(model), self._in_flight.get(group_of(model), 0)
        if kind is None or not now or time.monotonic() - kind.since > _FORGET_S:
            return None
        expected_s = units * kind.cost_s * (now + 1) / (kind.beside + 1)
        return expected_s, max(0.0, expected_s - units * kind.fastest_s)

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
        if self._longest_s:
            self._refuse_waiting(model, units, left_s, now)
        self._in_flight[group] = now + 1
        return Asked(model, units, now, time.monotonic())

    def _refuse_waiting(self, model: str, units: float, left_s: float | None, now: int) -> None:
        found = self.expected(model, units)
        if found is None:
            if now >= max(2, self.slots // 2):  # half of what runs at once, until more is known
                raise overloaded(
                    model, f"{now} requests are in flight and none has been answered yet.", 1.0
                )
            return
        expected_s, wait_s = found
        if wait_s > self._longest_s:
            raise overloaded(
                model,
                f"this request would wait {wait_s:.1f} s, {self._longest_s:g} s are allowed.",
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
        # In flight meanwhile: from those at its beginning to those at its end.
        beside = (asked.beside + max(0, self._in_flight[group_of(asked.model)] - 1)) / 2
        self._kinds.setdefault(asked.model, _Kind()).measure(took_s, asked.units, beside)

    def end(self, asked: Asked) -> None:
        """Count a request out."""
        self._in_flight[group_of(asked.model)] -= 1
