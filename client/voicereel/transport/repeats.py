"""When a call that lost its server, or found none, is sent again.

| what happened | is the call sent again |
|--|--|
| no connection, so nothing was sent | at once, and on a new connection; a client that has reached its server before goes on for its `return_s`, within the call's own timeout |
| the connection broke before anything came back | once: the server keeps no state, and an answer does not depend on how often it is asked for |
| the connection broke after audio had come | never |
"""  # noqa: E501

import time

from voicereel.errors import ServerUnavailable
from voicereel.transport.address import Address

RETURN_S = 120.0  # seconds: a pod or a machine with a large checkpoint is back by then
_PAUSE_S = 0.2  # between two attempts: short beside a server's start


class NoConnection(Exception):
    """An attempt of a call has failed because of its connection.

    Attributes:
        sent: Whether the request may have reached the server.
    """

    def __init__(self, message: str, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Repeats:
    """The attempts of one call.

    Attributes:
        left_s: Seconds that the next attempt may take.
    """

    def __init__(self, address: Address, return_s: float, timeout_s: float) -> None:
        """Begin a call.

        Args:
            address: Of the server.
            return_s: Seconds that the server may take to come back; 0: fail at once.
            timeout_s: Of the call as a whole, in seconds.
        """
        self._address, self._begin = address, time.monotonic()
        self._give_up = self._begin + min(return_s, timeout_s)
        self._deadline, self.left_s = self._begin + timeout_s, timeout_s
        self._refused = self._broken = 0

    def or_raise(self, problem: NoConnection, audio_came: bool = False) -> None:
        """Return when the call may be sent again.

        Raises:
            ServerUnavailable: If it may not: says why, and which proxy is in the way.
        """
        self._broken += problem.sent
        self._refused += not problem.sent
        may_repeat = not audio_came and self._broken < 2
        if may_repeat and self._refused > 1:  # the first new connection is made at once
            may_repeat = time.monotonic() + _PAUSE_S < self._give_up
            if may_repeat:
                time.sleep(_PAUSE_S)
        if not may_repeat:
            raise ServerUnavailable(self._explained(problem)) from None
        self.left_s = max(0.001, self._deadline - time.monotonic())

    def _explained(self, problem: NoConnection) -> str:
        waited_s = time.monotonic() - self._begin
        text = f"no answer from {self._address}: {problem}"
        if self._refused and waited_s > 1:
            text += f" (for {waited_s:.0f} s)"
        if proxy := self._address.proxy:
            name, _, value = proxy.partition("=")
            text += (
                f". The environment variable {name} sends this call through the proxy {value}; "
                f"if that is not wanted: export no_proxy={self._address.host}"
            )
        return text
