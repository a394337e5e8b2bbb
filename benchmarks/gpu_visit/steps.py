"""The steps of a visit, most telling first, each in a process with a time limit."""

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gpu_visit import child, processes
from benchmarks.gpu_visit.results import OUTCOME, Results, read
from benchmarks.gpu_visit.visit import ROOT, Visit

_LEAST_S = 10.0  # with less time left no step is begun
_SLOWER_ON_CPU = 8  # a step whose limit is for a GPU, beside other work on few cores


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Of its results.
        limit_s: How long it may take.
        module: That has `run(visit, results)`.
    """

    name: str
    limit_s: float
    module: str


def _step(name: str, limit_s: float) -> Step:
    return Step(name, limit_s, f"benchmarks.gpu_visit.step_{name}")


STEPS = (
    _step("card", 40),
    _step("tests", 120),
    _step("export", 150),
    _step("exact", 60),
    _step("serve", 150),
    _step("llama", 90),
    _step("codec", 90),
    _step("kernels", 45),
    _step("onnx", 120),
    _step("plots", 30),
)


@dataclass(frozen=True)
class Runner:
    """Takes steps.

    Attributes:
        visit: Of which they are.
        python: The interpreter that has what they need.
        environment: Variables of theirs, beside this process's.
        deadline: When all of it must be over, on the monotonic clock.
        patience_s: For a step that is over its limit to end its server.
    """

    visit: Visit
    python: str
    environment: Mapping[str, str]
    deadline: float
    patience_s: float = 10.0

    def run(self, step: Step) -> dict:
        """Take one step and write down how it went; none of its processes is left."""
        results, left_s = Results(self.visit.out, step.name), self.deadline - time.monotonic()
        if left_s < _LEAST_S:
            outcome = {"state": "skipped", "seconds": 0.0, "why": "no time is left"}
            results.put(OUTCOME, outcome)
            return outcome
        slower = _SLOWER_ON_CPU if self.visit.device == "cpu" else 1
        limit_s, begin = min(slower * step.limit_s, left_s), time.monotonic()
        status, left = self._run(step, limit_s)
        outcome = {"state": _state(status), "seconds": round(time.monotonic() - begin, 1)}
        if status is None:
            outcome["why"] = f"not done after {limit_s:.0f} s"
        elif status:
            why = read(self.visit.out).get(step.name, {}).get("why")
            outcome["why"] = why or f"its process ended with status {status}"
        if left:
            outcome["processes_left"] = left
        results.put(OUTCOME, outcome)
        return outcome

    def _run(self, step: Step, limit_s: float) -> tuple[int | None, list[int]]:
        """Exit status, None if it was over its limit; and processes that could not be ended."""
        token = secrets.token_hex(8)
        names = [step.module, step.name, self.visit.to_json()]
        command = [self.python, "-m", child.__name__, *names]
        with (self.visit.out / "log.txt").open("ab") as log:
            log.write(f"--- {step.name}\n".encode())
            log.flush()
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,  # closed when we end, see `child`
                stderr=log,
                env={**os.environ, **self.environment, processes.VARIABLE: token},
                start_new_session=True,  # Ctrl-C is ours to pass on
            )
            try:
                status = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                left = processes.end(process, token, self.patience_s)
        return status, left


def run_all(
    runner: Runner, steps: Sequence[Step], after: Callable[[], object] = lambda: None
) -> None:
    """Take the steps one after the other, whatever becomes of each.

    Args:
        runner: Takes them.
        steps: In this order.
        after: Called behind each.
    """
    for step in steps:
        print(f"{step.name}:", flush=True)
        outcome = runner.run(step)
        why = f": {outcome['why']}" if "why" in outcome else ""
        print(f"  {outcome['state']}, {outcome['seconds']} s{why}", flush=True)
        after()


def environment(visit: Visit) -> dict[str, str]:
    """What steps find their packages by, and what is for a CPU alone."""
    path = [str(ROOT), str(ROOT / "client"), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}
    if visit.device == "cpu":
        # A visit does not measure a CPU: compiling its kernels would take longer than most steps,
        # and the threads of a busy machine wait for each other at every small product. Nor does it
        # try a GPU's kernels in the interpreter: `make test` does.
        found |= {"FISH_SPEECH_COMPILE": "false", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    return found


def _state(status: int | None) -> str:
    if status is None:
        return "over its limit"
    return {0: "done", child.SKIPPED: "skipped"}.get(status, "failed")
