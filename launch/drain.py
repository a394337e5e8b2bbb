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
_POLL_S = 0.1
_PROGRESS = ("nv_inference_count", "nv_inference_request_failure", "fish_llama_frames_total")


def drain(
    pipe: Path, limit_s: float, is_over: Callable[[], bool], metrics: Callable[[], str]
) -> bool:
    """Close the front doors and wait.

    Args:
        pipe: That `ensemble.serving.drain` waits for, and removes when the doors are closed.
        limit_s: How long to wait, in seconds.
        is_over: Whether the server is ready again, or has ended.
        metrics: The server's Prometheus page.

    Returns:
        Whether nothing is in flight any more; also true if no model waits for the pipe.
    """
    try:
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return True
    give_up = time.monotonic() + limit_s
    progress, since = "", time.monotonic()
    while pipe.exists() or not is_over():
        if (now := _counts(metrics())) != progress:
            progress, since = now, time.monotonic()
        if time.monotonic() > min(give_up, since + STALLED_S):
            return False
        time.sleep(_POLL_S)
    time.sleep(SENDING_S)
    return True


def _counts(metrics: str) -> str:
    return "\n".join(line for line in metrics.splitlines() if line.startswith(_PROGRESS))
