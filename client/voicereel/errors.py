"""What can go wrong, by what a caller can do about it. Messages repeat the server's own words."""

import re


class VoiceReelError(Exception):
    """Base of everything this package raises about a request or a server."""


class InvalidRequest(VoiceReelError):
    """The request cannot be served as it is; sending it again will not help."""


class ConfigurationError(VoiceReelError):
    """This machine is not set up for what was asked; the message says how to mend it."""


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


# What is said counts more than the status: a stream's errors come without one, and a unary front
# door sees every error of the models behind it as INTERNAL (Triton 24.10). Our models say which
# kind it is (ensemble/serving/wire.py); the other words are Triton's own.
_BY_WORDS = (
    (re.compile(r"\bfish_\w+: invalid request: "), InvalidRequest),
    (re.compile(r"\bfish_\w+: overloaded: "), Overloaded),
    (re.compile(r"\bfish_\w+: cancelled: its timeout"), DeadlineExceeded),
    (re.compile(r"\bfish_\w+: cancelled: "), Cancelled),
    (re.compile(r"Exceeds maximum queue size|Request timeout expired"), Overloaded),
    (re.compile(r"Request for unknown model"), ServerUnavailable),
)
# By the names of gRPC's status codes; what is in neither table is a ServerError.
_BY_STATUS = {
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAVAILABLE": ServerUnavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}


def error_for(status: str, message: str) -> VoiceReelError:
    """The typed error for a message of the server and a gRPC status name, "" if there is none."""
    for words, kind in _BY_WORDS:
        if words.search(message):
            return kind(message)
    return _BY_STATUS.get(status, ServerError)(message)
