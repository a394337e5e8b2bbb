"""How long a request will wait for a slot: one that would wait too long is refused at once."""

import math

SHARE_OF_LAST = 0.1  # of an average over about the last ten requests: loads change within seconds


class ServiceTime:
    """The average time that requests keep a slot, the last ones counting most.

    Attributes:
        seconds: 0 before the first request has ended.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def ended(self, seconds: float) -> None:
        """Count a request that has given its slot back."""
        share = SHARE_OF_LAST if self.seconds else 1.0
        self.seconds += share * (seconds - self.seconds)


def expected_wait_s(service_s: float, running: int, waiting: int, slots: int) -> float:
    """Seconds until a request that comes now gets a slot.

    Requests get slots in the order of their arrival, and slots become free one by one. Those that
    wait for memory although slots are free wait longer than this says.

    Args:
        service_s: Average time that a request keeps its slot.
        running: Requests that have a slot.
        waiting: Requests before it that have none.
        slots: At most.
    """
    ahead = waiting - (slots - running)  # the others get a slot in the next step
    return 0.0 if ahead < 0 else service_s * (ahead + 1) / slots


def in_words(seconds: float) -> str:
    """Rounded up, for a message."""
    return f"{math.ceil(seconds)} s"
