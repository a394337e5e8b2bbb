"""Every request of a unary front door gets FINAL exactly once, whatever its ensemble answers.

The models run in this process, on a stand-in for what Triton gives them.
"""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.pb_utils_stand_in import Request, load

pytestmark = pytest.mark.torch
MODELS = Path(__file__).resolve().parents[2] / "model_repository"


class Answers:
    """The client of the server's own port: what the streaming ensemble answers, or raises.

    Attributes:
        chunks: Finish reasons of the chunks, "" for all but a last one.
        error: Comes after them: a message from the server, or an exception of the client.
        endless: Whether the stream stays open after that.
        slow_s: How long the connection takes to close.
        headers: Those of each request that came.
    """

    def __init__(
        self, chunks: list[str], error: Any = None, endless: bool = False, slow_s: float = 0
    ) -> None:
        self.chunks, self.error, self.endless, self.slow_s = chunks, error, endless, slow_s
        self.reached, self.headers = asyncio.Event(), list[dict]()

    async def stream_infer(self, requests: Any, headers: dict) -> Any:
        self.headers.append(headers)
        async for _ in requests:
            break
        for index, why in enumerate(self.chunks):
            yield _chunk(index, why), None
        if isinstance(self.error, Exception):
            raise self.error
        if self.error:
            yield None, SimpleNamespace(message=lambda: self.error)
        if self.endless:
            self.reached.set()
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(self.slow_s)

    async def close(self) -> None:
        pass


def _chunk(index: int, why: str) -> Any:
    values = {
        "chunk_index": np.array([[index]]),
        "audio": np.zeros((1, 4096), np.float32),
        "num_samples": np.array([[2048]]),
        "finish_reason": np.array([[why.encode()]], object),
        "sample_rate": np.array([[44100]]),
    }
    return SimpleNamespace(
        as_numpy=values.get, get_response=lambda: SimpleNamespace(outputs=[*values])
    )


class Door:
    """A front door whose ensemble answers so."""

    def __init__(self, name: str, answers: Answers) -> None:
        self.model = load(MODELS / name / "1" / "model.py").TritonPythonModel()
        self.model.initialize({})
        self.model.client = answers
        self.answers = answers

    def ask(self, **inputs: Any) -> Request:
        request = Request(**inputs)
        self.model.execute([request])
        return request


PATHS = {
    "whole": (Answers(["", "stop"]), ""),
    "error": (Answers([""], "fish_llama: overloaded: full"), "fish_llama: overloaded: full"),
    "cut off": (Answers(["", ""]), "fish_tts_stream ended after 2 chunks, unfinished"),
    "nothing": (Answers([]), "ended after 0 chunks"),
    "cancelled": (Answers(["", "cancelled"]), "cancelled: by the caller"),
    "timeout": (Answers(["timeout"]), "cancelled: its timeout has passed"),
    "client": (Answers([""], ConnectionError("planted")), "planted"),
}


@pytest.mark.parametrize("path", PATHS)
def test_every_path_ends_once(path) -> None:
    answers, message = PATHS[path]
    door = Door("fish_tts", answers)
    request = door.ask(text=[b"Hello."])
    request.sender.wait()
    door.model.finalize()
    assert request.sender.finals == [True]
    assert message in request.sender.error and bool(message) == bool(request.sender.error)
    assert not door.model.in_flight


@pytest.mark.parametrize("name", ["fish_tts", "fish_clone"])
def test_the_ensembles_trace_goes_on_from_the_models(name) -> None:
    door = Door(name, Answers(["stop"]))
    for trace in ('{"traceparent": "00-1-2-01", "tracestate": "a=b"}', None, ""):
        door.ask(text=[b"Hello."], trace=trace).sender.wait()
    door.model.finalize()
    assert door.answers.headers == [{"traceparent": "00-1-2-01", "tracestate": "a=b"}, {}, {}]


@pytest.mark.parametrize("name", ["fish_tts", "fish_clone"])
def test_a_full_front_door_refuses(name, monkeypatch) -> None:
    from ensemble.serving import front_door

    monkeypatch.setattr(front_door, "MAX_IN_FLIGHT", 2)
    door = Door(name, Answers([], endless=True))
    requests = [door.ask(text=[b"Hello."]) for _ in range(3)]
    assert requests[2].sender.finals == [True]
    assert f"{name}: overloaded: 2 requests are in flight" in requests[2].sender.error
    door.model.finalize()
    for request in requests[:2]:
        assert request.sender.finals == [True]
        assert "the server is shutting down" in request.sender.error


@pytest.mark.parametrize("slow_s", [0, 0.3])
def test_a_front_door_that_closes_answers_every_request(slow_s) -> None:
    door = Door("fish_tts", Answers([""], endless=True, slow_s=slow_s))
    requests = [door.ask(text=[b"Hello."]) for _ in range(5)]
    asyncio.run_coroutine_threadsafe(door.answers.reached.wait(), door.model.loop).result(30)
    door.model.finalize()
    for request in requests:
        assert request.sender.finals == [True]
        assert "the server is shutting down" in request.sender.error


def test_an_unreadable_request(monkeypatch) -> None:
    """That caller gets an error, and the next request gets the place."""
    from ensemble.serving import front_door

    monkeypatch.setattr(front_door, "MAX_IN_FLIGHT", 1)
    door = Door("fish_tts", Answers(["stop"]))
    bad, good = Request("not JSON", text=[b"Hello."]), Request(text=[b"Hello."])
    for request in (bad, good):
        door.model.execute([request])
        request.sender.wait()
        assert request.sender.finals == [True]
    door.model.finalize()
    assert bad.sender.error.startswith("fish_tts: ")
    assert good.sender.error == ""
