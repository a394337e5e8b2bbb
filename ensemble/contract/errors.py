"""The kinds of error that a caller can tell apart, and the words that name each on the wire.

An error on a stream has no status, and Triton turns every error of a model behind a unary front
door into INTERNAL (Triton 24.10). So the words of the kind stand in the message itself:
`fish_prompt: invalid request: text is empty, expected words to say.` The client
(`client/voicereel/errors.py`) reads them; a test holds the two together.
"""

from dataclasses import dataclass


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
    words = kind_of(problem).words
    return f"{who}: {words}: {problem}" if words else f"{who}: {problem}"
