"""Kinds of error: what a model says is what a front door passes on and what the client raises."""

import pytest

from ensemble.contract.errors import (
    INTERNAL,
    KINDS,
    CancelledError,
    OverloadedError,
    kind_in,
    kind_of,
    message_of,
)
from ensemble.contract.voice import PromptError
from voicereel.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerError,
    error_for,
)

RAISED = [
    (ValueError("top_p is 3"), "INVALID_ARG", InvalidRequest),
    (PromptError("text is empty"), "INVALID_ARG", InvalidRequest),
    (OverloadedError("256 requests are in flight"), "UNAVAILABLE", Overloaded),
    (CancelledError("by the caller"), "CANCELLED", Cancelled),
    (CancelledError("its timeout has passed"), "CANCELLED", DeadlineExceeded),
    (CancelledError("its timeout of 3 s has passed"), "CANCELLED", DeadlineExceeded),
    (RuntimeError("no memory"), "INTERNAL", ServerError),
    (KeyError("text"), "INTERNAL", ServerError),
]


@pytest.mark.parametrize(("problem", "code", "raised"), RAISED, ids=str)
def test_server_and_client_agree_on_the_kind(problem, code, raised) -> None:
    message = message_of("fish_llama", problem)
    assert kind_of(problem).code == kind_in(message).code == code
    assert message.startswith("fish_llama: ") and message.endswith(str(problem))
    # A stream has no status, and behind a unary front door every error is INTERNAL.
    for status in ("", "INTERNAL"):
        assert type(error_for(status, f"in ensemble 'fish_tts_stream', {message}")) is raised


def test_every_kind_is_told_apart() -> None:
    codes = [kind.code for kind in (*KINDS, INTERNAL)]
    assert len(set(codes)) == len(codes)
    assert {kind_of(problem).code for problem, _, _ in RAISED} == set(codes)


def test_words_of_a_kind_inside_a_message_are_no_kind() -> None:
    assert kind_in("fish_llama: the batch was cancelled") is INTERNAL
    assert kind_in("fish_llama: overloaded: 4 requests are waiting").code == "UNAVAILABLE"
