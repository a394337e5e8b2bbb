"""Kinds of error: what a model says is what a front door passes on and what the client raises."""

import pytest

from ensemble.contract import errors
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


def test_a_message_does_not_repeat_all_that_was_sent() -> None:
    said = errors.message_of("fish_prompt", ValueError("x" * 10**6))
    assert len(said) < errors.MOST_CHARACTERS + 100 and said.endswith("x ...")
    assert errors.message_of("fish_llama", TimeoutError()) == "fish_llama: TimeoutError"


def test_lines_of_the_log_are_bounded_and_say_whose_they_are(monkeypatch) -> None:
    clock = [5.0]
    monkeypatch.setattr(errors.time, "monotonic", lambda: clock[0])
    lines, refusal = errors.LogLines(), errors.kind_of(ValueError())
    message = errors.message_of("fish_prompt", ValueError("text is\nempty"))
    found = [lines.line("7", message, refusal) for _ in range(30)]
    assert found[0] == r"fish_prompt: request '7': invalid request: text is\nempty"
    assert [bool(line) for line in found] == [True] * 20 + [False] * 10
    clock[0] = 6.0
    gone = errors.kind_of(errors.CancelledError())
    assert lines.line("8", "fish_llama: cancelled: by the caller", gone) == ""
    assert lines.line("9", message, refusal).endswith("empty (10 more were not logged)")
