"""Waits until a server whose front doors are closed has no request in flight any more."""

import os
import time
from collections.abc import Callable
from pathlib import Path

SENDING_S = 0.3  # seconds that the last responses may take from a model to their callers
# Seconds without any progress after which requests in flight count as lost. An error behind a
# decoupled step keeps its ensemble's request for ever (core's pull request 466). The longest single
# step is the encoding of a long recording.
STALLED_S = 30
GHOSTS_S = 3  # seconds without any work after which what Triton still counts is such a request
_POLL_S = 0.1
_WORK = 0.1  # of a core: with less, no model computes
_WAITING = (
    "fish_llama_active_slots",
    "fish_llama_waiting_requests",
    "nv_inference_pending_request_count",
)
_PROGRESS = ("nv_inference_count", "nv_inference_request_failure", "fish_llama_frames_total")


def drain(
    pipe: Path,
    limit_s: float,
    is_over: Callable[[], bool],
    metrics: Callable[[], str],
    computed_s: Callable[[], float] = time.monotonic,
) -> bool:
    """Close the front doors and wait.

    Args:
        pipe: That `ensemble.serving.drain` waits for, and removes when the doors are closed.
        limit_s: How long to wait, in seconds.
        is_over: Whether the server is ready again, or has ended.
        metrics: The server's Prometheus page.
        computed_s: Seconds of CPU time that its models have used.

    Returns:
        Whether nothing is in flight any more; also true if no model waits for the pipe.
    """
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return True
    give_up = time.monotonic() + limit_s
    progress, since = "", time.monotonic()
    worked, idle_since = computed_s(), since
    while pipe.exists() or not is_over():
        page, now = metrics(), time.monotonic()
        if (counts := _counts(page)) != progress:
            progress, since, idle_since = counts, now, now
        before, worked = worked, computed_s()
        if worked - before > _POLL_S * _WORK or not _is_idle(page):
            idle_since = now
        if now > min(give_up, since + STALLED_S):
            return False
        if now > idle_since + GHOSTS_S:
            break
        time.sleep(_POLL_S)
    time.sleep(SENDING_S)
    return True


def _is_idle(metrics: str) -> bool:
    """Whether no model has a request that waits or is spoken; false if nobody knows."""
    lines = [line for line in metrics.splitlines() if line.startswith(_WAITING)]
    known = any(line.startswith("fish_llama_active_slots") for line in lines)
    return known and all(float(line.rpartition(" ")[2]) == 0 for line in lines)


def _counts(metrics: str) -> str:
    return "\n".join(line for line in metrics.splitlines() if line.startswith(_PROGRESS))
