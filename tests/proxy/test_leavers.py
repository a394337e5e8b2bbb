"""Requests whose callers leave are taken back."""

import threading

import numpy as np
import pytest

from support.launched import wait_until
from support.proxied import text_request


def speaks_until_cancelled(upstream):
    """An answer that goes on for ever."""

    def answer(inputs):
        index = 0
        while index < 100_000:
            yield {"audio": np.zeros((1, 20_000), np.float32)}
            index += 1

    upstream.answer = answer


@pytest.mark.parametrize("has_token", [True, False])
def test_the_request_of_a_caller_that_leaves_is_taken_back(door, stub, upstream, has_token) -> None:
    speaks_until_cancelled(upstream)
    asked = text_request("fish_tts_stream")
    if not has_token:
        del asked.parameters["cancel_token"]
    call = stub.ModelStreamInfer(iter([asked]))
    next(call)
    call.cancel()
    assert upstream.cancelled.wait(1)
    wait_until(lambda: door.proxy.load.in_flight == 0)


def test_a_unary_caller_that_leaves_is_taken_back(door, stub, upstream) -> None:
    gone = threading.Event()

    def answer(inputs):
        gone.wait(10)
        yield {}

    upstream.answer = answer
    call = stub.ModelInfer.future(text_request())
    wait_until(lambda: upstream.requests)
    call.cancel()
    wait_until(lambda: upstream.taken_back, 1)
    gone.set()
