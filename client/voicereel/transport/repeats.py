"""When a call that lost its server, or found none, is sent again.

| what happened | is the call sent again |
|--|--|
| no connection, so nothing was sent | at once: to another server, or on a new connection |
| the server is not ready, or does not have the model yet | to another server at once |
| the server has too much to do | to another server at once; when all have, when the server said, until the call's own timeout |
| the connection broke, or something on the way cancelled the call, before anything came back | once: the server keeps no state, and an answer does not depend on how often it is asked for. Not more often, since a request that ends servers must not end all of them |
| the connection broke after audio had come | never |

When no server is left, a client that has reached one before asks all again for its `return_s`, within
the call's own timeout, with pauses that grow and differ from caller to caller.
"""  # noqa: E501

import logging
import random
import time

from voicereel.errors import Overloaded, ServerUnavailable, VoiceReelError
from voicereel.transport.address import Address

RETURN_S = 120.0  # seconds: a pod or a machine with a large checkpoint is back by then
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 2.0  # between rounds: short beside a server's start
_LAST_S = 0.1  # before the end: no more attempt is worth it

log = logging.getLogger("voicereel.repeats")


class NoConnection(Exception):
    """An attempt of a call has failed because of its connection.

    Attributes:
        sent: Whether the request may have reached the server.
        final: The error if the call is not sent again; None: `ServerUnavailable`.
    """

    def __init__(self, message: str, sent: bool, final: VoiceReelError | None = None) -> None:
        super().__init__(message)
        self.sent, self.final = sent, final


class Repeats:
    """The attempts of one call.

    Attributes:
        address: Of the server that the last attempt went to.
        left_s: Seconds that the next attempt may take.
    """

    def __init__(
        self, address: Address, return_s: float, timeout_s: float, request_id: str = ""
    ) -> None:
        """Begin a call.

        Args:
            address: Of the server.
            return_s: Seconds that the server may take to come back; 0: fail at once.
            timeout_s: Of the call as a whole, in seconds.
            request_id: For the log.
        """
        self.address, self._begin, self._request_id = address, time.monotonic(), request_id
        self._give_up = self._begin + min(return_s, timeout_s)
        self._deadline, self.left_s = self._begin + timeout_s, timeout_s
        self._tries = self._refused = self._broken = self._pauses = 0
        self._overloads: list[Overloaded] = []
        self._asked: dict[str, None] = {}  # addresses, in order
        self._is_worth_it = True  # until a server that is there has never had such a model

    def or_raise(
        self,
        problem: NoConnection | VoiceReelError,
        audio_came: bool = False,
        others: bool = False,
        is_known: bool = True,
    ) -> None:
        """Return when the call may be sent again.

        Args:
            problem: Why the attempt failed.
            audio_came: Whether something of the answer has come.
            others: Whether there is a server that was not asked yet.
            is_known: Whether a server has answered such a call before.

        Raises:
            VoiceReelError: If it may not; a `ServerUnavailable` says why, and which proxy is in
                the way.
        """
        self._asked[str(self.address)] = None
        if isinstance(problem, NoConnection):
            self._broken += problem.sent
            self._refused += not problem.sent
        if isinstance(problem, Overloaded):
            self._overloads.append(problem)
        self._tries += 1
        at_once = isinstance(problem, NoConnection) and (self._tries < 2 or problem.sent)
        if audio_came or self._broken > 1:
            raise self._error(problem) from None
        self._is_worth_it &= is_known
        if not (others or at_once):  # at once: on a new connection
            self._wait(problem)
        self.left_s = max(0.001, self._deadline - time.monotonic())
        why = str(problem)[:200]
        log.warning("request %s is sent again: %s: %s", self._request_id, self.address, why)

    def _wait(self, problem: NoConnection | VoiceReelError) -> None:
        """Pause before all servers are asked again, if that is worth it."""
        now, hint_s = time.monotonic(), 0.0
        if self._overloads:
            hint_s = max(error.retry_after_s for error in self._overloads)
            is_worth_it = hint_s > 0
        else:
            hint_s, is_worth_it = getattr(problem, "retry_after_s", 0.0), self._is_worth_it
        pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**self._pauses)
        pause_s = max(hint_s * random.uniform(1, 1.25), pause_s * random.uniform(0.5, 1))
        left_s = self._give_up - now - _LAST_S
        if not is_worth_it or left_s < max(hint_s, 0.001):
            raise self._error(problem) from None
        self._pauses += 1
        self._overloads.clear()
        time.sleep(min(pause_s, left_s))

    def _error(self, problem: NoConnection | VoiceReelError) -> VoiceReelError:
        if self._overloads:  # a server that is there counts for more than one that is not
            return self._overloads[-1]
        if isinstance(problem, VoiceReelError):
            return problem
        return problem.final or ServerUnavailable(self._explained(problem))

    def _explained(self, problem: NoConnection) -> str:
        waited_s = time.monotonic() - self._begin
        text = f"no answer from {', '.join(self._asked)}: {problem}"
        if self._refused and waited_s > 1:
            text += f" (for {waited_s:.0f} s)"
        if proxy := self.address.proxy:
            name, _, value = proxy.partition("=")
            text += (
                f". The environment variable {name} sends this call through the proxy {value}; "
                f"if that is not wanted: export no_proxy={self.address.host}"
            )
        return text
