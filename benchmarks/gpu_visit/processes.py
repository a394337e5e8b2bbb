"""Ends a step with all that it started.

A tritonserver is in a session of its own, and its stubs may be left without a parent, so neither
the process group nor the family tree finds all. What every one of them inherits is a variable.
"""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

VARIABLE = "GPU_VISIT_STEP"
_GONE_WITHIN_S = 20.0  # a process that holds a GPU takes seconds to die


def started_by(token: str) -> list[int]:
    """Processes that run now and have inherited this value of the variable."""
    wanted, found = f"{VARIABLE}={token}".encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # another user's, or it has just ended
        if wanted in environment.split(b"\0"):
            found.append(int(folder.name))
    return found


def end(process: subprocess.Popen, token: str, patience_s: float) -> list[int]:
    """End a step's process, and then all that it started.

    Args:
        process: The step's; it is asked first, so that it can end its server in good order.
        token: That all of them have inherited.
        patience_s: How long it may take about that.

    Returns:
        Processes that could not be ended.
    """
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    give_up = time.monotonic() + _GONE_WITHIN_S
    while left := started_by(token):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()  # takes leave of it, or it would stay as a zombie
        if time.monotonic() > give_up:
            break
        time.sleep(0.1)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return left
