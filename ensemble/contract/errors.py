"""The kinds of error that a caller can tell apart, and the words that name each on the wire.

An error on a stream has no status, and Triton turns every error of a model behind a unary front
door into INTERNAL (Triton 24.10). So the words of the kind stand in the message itself:
`fish_prompt: invalid request: text is empty, expected words to say.` The client
(`client/voicereel/errors.py`) reads them; a test holds the two together.
"""

import time
from dataclasses import dataclass

MOST_CHARACTERS = 2000  # of a message: it may repeat what the caller sent, which has any size
_LINES_PER_S = 20  # in the log: whoever sends nonsense must not fill the disk


class OverloadedError(RuntimeError):
    """Too many requests are in flight; the caller should try another replica, or later."""


class CancelledError(RuntimeError):
    """The request was ended early: its caller has left, or its timeout has passed."""


@dataclass(frozen=True)
class Kind:
    """One kind of error.

    Attributes:
        error: What is raised; its subclasses are of the same kind.
        code: Name of a `TritonError` code.
        words: Between the model's name and the message; "" for none.
    """

    error: type[Exception]
    code: str
    words: str


INTERNAL = Kind(Exception, "INTERNAL", "")  # the server's own failure
KINDS = (
    Kind(ValueError, "INVALID_ARG", "invalid request"),
    Kind(OverloadedError, "UNAVAILABLE", "overloaded"),
    Kind(CancelledError, "CANCELLED", "cancelled"),
)


def kind_of(problem: Exception) -> Kind:
    """The kind that a model's error is of."""
    return next((kind for kind in KINDS if isinstance(problem, kind.error)), INTERNAL)


def kind_in(message: str) -> Kind:
    """The kind that another model's message names."""
    return next((kind for kind in KINDS if f": {kind.words}: " in message), INTERNAL)


def message_of(who: str, problem: Exception) -> str:
    """The message that goes to the caller.

    Args:
        who: The model's name.
        problem: What it raised.
    """
    words, said = kind_of(problem).words, str(problem) or type(problem).__name__
    if len(said) > MOST_CHARACTERS:
        said = f"{said[:MOST_CHARACTERS]} ..."
    return f"{who}: {words}: {said}" if words else f"{who}: {said}"


class LogLines:
    """Says of which request a refusal or failure was, in one line each and in bounded number.

    That a caller has left is not worth a line.
    """

    def __init__(self) -> None:
        self._second, self._count, self._omitted = 0, 0, 0

    def line(self, request_id: str, message: str, kind: Kind) -> str:
        """The line for the log, "" for none.

        Args:
            request_id: The caller's; "" if it gave none. Neither it nor the message can begin a
                line of its own.
            message: As `message_of` made it.
            kind: Of the error.
        """
        if kind.error is CancelledError:
            return ""
        if (now := int(time.monotonic())) != self._second:
            self._second, self._count = now, 0
        self._count += 1
        if self._count > _LINES_PER_S:
            self._omitted += 1
            return ""
        omitted, self._omitted = self._omitted, 0
        who, _, said = message.partition(": ")
        line = f"{who}: request {request_id[:MOST_CHARACTERS]!a}: {ascii(said)[1:-1]}"
        return f"{line} ({omitted} more were not logged)" if omitted else line
