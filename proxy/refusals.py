"""What a caller is told when a request does not get to the server."""

import math
import re
from dataclasses import dataclass

from grpc import StatusCode

from ensemble.contract.errors import OverloadedError, kind_in, message_of

# gRPC status -> HTTP status. Source: HttpCodeFromError of Triton's http_server.cc, and 403, 413.
_HTTP = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.UNIMPLEMENTED: 404,
    StatusCode.RESOURCE_EXHAUSTED: 413,
    StatusCode.UNAVAILABLE: 503,
}

_AGAIN = re.compile(r"\bTry again in (\d{1,4}) s\b")


@dataclass
class Refusal(Exception):
    """An answer of the proxy's own.

    Attributes:
        reason: One word, for the metrics.
        message: Who, got, expected, what to do.
        code: gRPC status.
        retry_after_s: Seconds after which the request may get through; None: not by itself.
        id, model: Of the request, as far as they were read.
    """

    reason: str
    message: str
    code: StatusCode
    retry_after_s: float | None = None
    id: str = ""
    model: str = ""

    def __str__(self) -> str:
        return self.message

    @property
    def left(self) -> bool:
        """Whether the caller is gone, as far as can be seen: it reads nothing."""
        return self.reason == "slow"

    @property
    def http(self) -> int:
        """HTTP status."""
        return _HTTP.get(self.code, 500)

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers: a hint when to come again, in whole seconds."""
        if self.retry_after_s is None:
            return {}
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}

    @property
    def trailers(self) -> tuple[tuple[str, str], ...]:
        """GRPC trailing metadata: the same hint, in milliseconds."""
        if self.retry_after_s is None:
            return ()
        return (("retry-after-ms", str(max(1, math.ceil(self.retry_after_s * 1000)))),)


def invalid(who: str, message: str, reason: str = "invalid") -> Refusal:
    """The caller's mistake.

    Args:
        who: The model, or what else was asked.
        message: Got, expected, what to do.
        reason: For the metrics.
    """
    return Refusal(reason, message_of(who, ValueError(message)), StatusCode.INVALID_ARGUMENT)


def too_large(message: str, reason: str = "size") -> Refusal:
    """A body above a limit."""
    return Refusal(reason, f"proxy: {message}", StatusCode.RESOURCE_EXHAUSTED)


def overloaded(who: str, message: str, retry_after_s: float) -> Refusal:
    """Too much is in flight."""
    text = message_of(who, OverloadedError(message))
    return Refusal("overloaded", text, StatusCode.UNAVAILABLE, retry_after_s)


def unavailable(message: str, reason: str = "unavailable") -> Refusal:
    """The server behind the proxy cannot answer, or the proxy ends."""
    return Refusal(reason, message, StatusCode.UNAVAILABLE, 1.0)


def of_the_server(message: str) -> Refusal | None:
    """A full model's own refusal, with the time to come again if it named one; None if it is none.

    Triton's own status of one is 400 over HTTP where the answer is a stream (Triton 24.10).
    """
    if kind_in(message).error is not OverloadedError:
        return None
    found = _AGAIN.search(message)
    after_s = float(found[1]) if found else None
    return Refusal("overloaded", message, StatusCode.UNAVAILABLE, after_s)
