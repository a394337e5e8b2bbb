"""What can go wrong, by what a caller can do about it. Messages repeat the server's own words."""

import re


class VoiceReelError(Exception):
    """Base of everything this package raises about a request or a server."""


class InvalidRequest(VoiceReelError):
    """The request cannot be served as it is; sending it again will not help."""


class ServerUnavailable(VoiceReelError):
    """Nobody answers at the address, or the server does not serve the model (yet)."""


class Overloaded(VoiceReelError):
    """The server is up but has too much to do: try another replica, or later."""


class DeadlineExceeded(VoiceReelError):
    """The answer was not complete within the timeout."""


class Cancelled(VoiceReelError):
    """The request was cancelled before it was done."""


class ServerError(VoiceReelError):
    """The server failed, or its answer breaks the contract; audio so far is incomplete."""


# By the names of gRPC's status codes; what is not here is a ServerError.
_BY_STATUS = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": ServerUnavailable,  # a server, but not with our models
    "UNAVAILABLE": ServerUnavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}
# UNAVAILABLE is also what a full server says: Triton's queues, or one of our models by name.
_FULL = re.compile(r"Exceeds maximum queue size|Request timeout expired|\bfish_\w+: ")


def error_for(status: str, message: str) -> VoiceReelError:
    """The typed error for a gRPC status name and the message that came with it."""
    if status == "UNAVAILABLE" and _FULL.search(message):
        return Overloaded(message)
    return _BY_STATUS.get(status, ServerError)(message)
