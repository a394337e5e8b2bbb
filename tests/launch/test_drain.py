"""How the launcher waits for requests in flight, with a stand-in for the server."""

import os
import threading
import time
from pathlib import Path

import pytest

from launch import drain

pytestmark = pytest.mark.slow


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "drain")
    return tmp_path / "drain"


def closes_doors(pipe: Path) -> threading.Thread:
    """A model that waits for the pipe, and removes it."""

    def wait() -> None:
        pipe.open("rb").close()
        pipe.unlink()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.1)  # until it waits
    return thread


def test_a_server_without_that_model_is_not_waited_for(pipe: Path) -> None:
    assert drain.drain(pipe, 60, lambda: False, str)
    assert drain.drain(Path("nowhere"), 60, lambda: False, str)


def test_it_waits_until_nothing_is_in_flight(pipe: Path) -> None:
    thread, answers = closes_doors(pipe), iter([False, False, True])
    assert drain.drain(pipe, 60, lambda: next(answers), str)
    assert next(answers, None) is None
    thread.join()


def test_the_limit(pipe: Path) -> None:
    thread, begin = closes_doors(pipe), time.monotonic()
    assert not drain.drain(pipe, 0.3, lambda: False, str)
    assert time.monotonic() - begin < 30
    thread.join()


@pytest.mark.parametrize("moves", [True, False])
def test_requests_without_progress_are_lost(pipe: Path, monkeypatch, moves: bool) -> None:
    """An ensemble that has lost a response keeps its request for ever."""
    monkeypatch.setattr(drain, "STALLED_S", 0.4)
    thread, begin = closes_doors(pipe), time.monotonic()

    def metrics() -> str:
        frames = time.monotonic() if moves else 3
        return f"fish_llama_frames_total {frames}\nnv_cpu_utilization {time.monotonic()}"

    done = drain.drain(pipe, 60, lambda: time.monotonic() - begin > 1.2, metrics)
    assert done == moves
    thread.join()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slots", "computes", "left"),
    [(0, False, True), (1, False, False), (0, True, False), (None, False, False)],
    ids=["ghosts", "spoken", "encoded", "unknown"],
)
def test_requests_that_nobody_works_on_are_not_waited_for(
    pipe: Path, monkeypatch, slots, computes, left
) -> None:
    """After an engine's failure Triton counts its requests for ever."""
    monkeypatch.setattr(drain, "GHOSTS_S", 0.3)
    thread, begin = closes_doors(pipe), time.monotonic()
    page = (
        "" if slots is None else f"fish_llama_active_slots {slots}\nfish_llama_waiting_requests 0"
    )

    def computed_s() -> float:
        return time.monotonic() * computes

    assert drain.drain(pipe, 4, lambda: False, lambda: page, computed_s) == left
    assert (time.monotonic() - begin < 3.8) == left
    thread.join()
