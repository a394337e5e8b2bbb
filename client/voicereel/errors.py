"""What can go wrong, by what a caller can do about it. Messages repeat the server's own words."""

import re


class VoiceReelError(Exception):
    """Base of every error that this package raises about a request or a server.

    Attributes:
        retry_after_s: Seconds after which the server wants to be asked again; 0: it did not say.
    """

    retry_after_s: float = 0.0


class InvalidRequest(VoiceReelError):
    """The request cannot be served as it is; sending it again will not help."""


class ConfigurationError(VoiceReelError):
    """This machine is not set up for the call; the message says how to fix it."""


class ServerUnavailable(VoiceReelError):
    """No server answers at the address, or it does not serve the model, or not yet."""


class Overloaded(VoiceReelError):
    """The server answers but has too much to do: try another replica, or later."""


class DeadlineExceeded(VoiceReelError):
    """The response was not complete within the timeout."""


class Cancelled(VoiceReelError):
    """The request was cancelled before it was complete."""


class ServerError(VoiceReelError):
    """The server failed, or its response breaks the contract; audio so far is incomplete."""


# An error is classified by its words first: on a stream it has no status, and a unary front door
# gets every error of the models behind it as INTERNAL (Triton 24.10). So the models write the kind
# of an error into its message, "MODEL: KIND: ..."; a test compares the kinds with those of
# ensemble/contract/errors.py. The first entry that fits counts.
KINDS = {
    "invalid request: ": InvalidRequest,
    "overloaded: ": Overloaded,
    "cancelled: its timeout": DeadlineExceeded,
    "cancelled: ": Cancelled,
}
TRITONS_WORDS = {  # messages of Triton itself
    "Exceeds maximum queue size": Overloaded,
    "Request timeout expired": Overloaded,
    "Request for unknown model": ServerUnavailable,
    "Server not ready": ServerUnavailable,
    "is not healthy": ServerUnavailable,  # a model's process has died
    "message larger than max": ServerError,  # gRPC's, about an answer that is too long
}
STATUSES = {  # names of gRPC's status codes, for messages without known words
    "INVALID_ARGUMENT": InvalidRequest,
    "UNAVAILABLE": ServerUnavailable,
    "RESOURCE_EXHAUSTED": Overloaded,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
}
_AGAIN = re.compile(r"Try again in (\d{1,4}) s\b")  # of a full LLaMA stage, which has no trailers
_LONGEST = 2000  # characters of a message that are kept
_KIND = re.compile(rf"\bfish_\w+: ({'|'.join(KINDS)})")


def error_for(status: str, message: str, retry_after_s: float = 0.0) -> VoiceReelError:
    """The error for a message of the server; a `ServerError` if it fits no table.

    Args:
        status: Name of the gRPC status, "" if there is none.
        message: The server's message; of one that has no end, the beginning is kept.
        retry_after_s: When the server wants to be asked again; 0: it did not say.
    """
    if len(message) > _LONGEST:
        message = f"{message[:_LONGEST]}... ({len(message)} characters)"
    error = _kind_of(status, message)(message)
    if not retry_after_s and isinstance(error, Overloaded) and (found := _AGAIN.search(message)):
        retry_after_s = float(found[1])
    error.retry_after_s = retry_after_s
    return error


def _kind_of(status: str, message: str) -> type[VoiceReelError]:
    if found := _KIND.search(message):
        return KINDS[found[1]]
    for words, error in TRITONS_WORDS.items():
        if words in message:
            return error
    return STATUSES.get(status, ServerError)
