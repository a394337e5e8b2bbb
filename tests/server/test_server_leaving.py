"""Streams of the real server that end early: by the guard, or because their caller has left."""

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from engine.schedule.runaway import runs_away
from launch.server import Server
from support.raw import Stream, infer, llama_metrics, outcomes

pytestmark = pytest.mark.server
SAMPLES_PER_FRAME = 2048
# Greedy, with a bonus for recent choices: speech is long, and a quarter of it runs away.
GREEDY = {"temperature": 0, "repetition_penalty": 0.5}


def of_llama(server: Server, text: str) -> dict:
    """A request of `fish_llama`."""
    return infer(server, "fish_prompt", text=text) | GREEDY


def codes_of(windows: list[dict]) -> np.ndarray:
    """int64 (codebooks, frames), of windows in order."""
    assert [int(w["chunk_index"][0]) for w in windows] == list(range(len(windows)))
    assert [bool(w["is_last"][0]) for w in windows] == [False] * (len(windows) - 1) + [True]
    heard, parts = 0, []
    for window in windows:
        new, valid = window["new_frames"], int(window["num_samples"][0]) // SAMPLES_PER_FRAME
        padding = [-1] * (len(new) - valid)
        assert new.tolist() == [*range(heard, heard + valid), *padding]
        assert valid or window["is_last"][0]  # the last may hold no frame
        parts.append(window["codes"][:, -len(new) :][:, :valid])
        heard += valid
    return np.concatenate(parts, axis=1)


def until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    give_up = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < give_up, f"not so after {patience_s} s"
        time.sleep(0.05)


def inside(server: Server) -> float:
    """Requests that are generating or queued."""
    now = llama_metrics(server)
    return sum(now.get(f"fish_llama_{n}", 0) for n in ("active_slots", "waiting_requests"))


def together(server: Server, model: str, jobs: list[dict]) -> list[list[dict]]:
    """The responses of each job, all of them sent before any is awaited."""
    connections = [Stream(server) for _ in jobs]
    try:
        for connection, job in zip(connections, jobs, strict=True):
            connection.send(model, **job)
        return [connection.collect()[""] for connection in connections]
    finally:
        for connection in connections:
            connection.close()


def test_what_runs_away_is_ended_and_says_so(server) -> None:
    prompts = [of_llama(server, f"Number {i}.") for i in range(32)]
    ended: Counter = Counter()
    for windows in together(server, "fish_llama", [p | {"max_new_tokens": 250} for p in prompts]):
        codes, reason = codes_of(windows), windows[-1]["finish_reason"][0].decode()
        assert [w["finish_reason"][0] for w in windows[:-1]] == [b""] * (len(windows) - 1)
        assert runs_away(codes.T) == (reason == "runaway") or codes.shape[1] == 250
        ended[reason] += 1
    assert ended["runaway"] > 0, ended
    assert set(ended) <= {"runaway", "stop", "length"}


def test_closing_the_connection_frees_the_slots(server) -> None:
    until(lambda: inside(server) == 0)
    prompt, before = of_llama(server, "Hello there."), outcomes(server)
    connections = [Stream(server) for _ in range(4)]
    for connection in connections:
        for i in range(40):  # more than end before their number is next published
            connection.send("fish_llama", **prompt | {"first_chunk_frames": 1 + 399 * (i > 0)})
    until(lambda: inside(server) >= 24)  # a request still on its way would never be seen
    for connection in connections:
        connection.close()
    until(lambda: inside(server) == 0)
    until(lambda: (outcomes(server) - before)["cancelled"] >= 16)  # they are told one by one
