"""`python -m benchmarks.gpu_visit.child MODULE STEP VISIT`: one step, in a process of its own."""

import importlib
import os
import signal
import sys
import threading
import traceback

from benchmarks.gpu_visit.results import Results
from benchmarks.gpu_visit.visit import Skipped, Visit

FAILED, SKIPPED = 1, 3


def main(module: str, step: str, visit_json: str) -> int:
    """Take a step; its exit status says how that went.

    Args:
        module: That has `run(visit, results)`.
        step: Its name.
        visit_json: A `Visit`.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(FAILED))  # `with` blocks end their servers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    progress = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever else is printed goes to the log
    visit = Visit.from_json(visit_json)
    results = Results(visit.out, step, progress)
    try:
        importlib.import_module(module).run(visit, results)
    except Skipped as reason:
        results.put("why", str(reason))
        return SKIPPED
    except Exception as error:  # whatever it is, the next step is still worth taking
        traceback.print_exc()
        words = str(error).strip().splitlines() or [""]
        results.put("why", f"{type(error).__name__}: {words[0]}")
        return FAILED
    return 0


def _end_with_parent() -> None:
    """The visit holds the other end of stdin: when it dies, however it dies, that is closed."""
    os.read(0, 1)  # not `sys.stdin`, whose lock Python wants when it ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
