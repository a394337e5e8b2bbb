"""One supervised server, callers of it, and what can be measured of both."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch import processes
from support.launched import children, ready, serve
from voicereel import Client, Options, VoiceReelError

NOT_READY_S, ERROR_S, BACK_S, SLOTS_S = 2, 5, 10, 1  # what is promised, in seconds
LONG = "A long story about everything."
FRAMES = 60  # at the speed of a listener: 3 s
ASKED: Options = {"seed": 5, "temperature": 2.0, "top_p": 1.0, "repetition_penalty": 0.5}
# Appended to the tiny checkpoint's fish_llama: it speaks at about the speed of a listener.
_SLOW = """

import time
from engine.schedule.scheduler import Scheduler

_run, _step = Scheduler.run, Scheduler.step


def _slow_step(self):
    time.sleep(0.04)
    return _step(self)


def _slow_run(self, *after_step):  # not the warm-up before it
    Scheduler.step = _slow_step
    _run(self, *after_step)


Scheduler.run = _slow_run
"""


@dataclass
class Row:
    """One line of the table.

    Attributes:
        fault: What was done.
        tries: Requests or attempts in it.
        lost: Of these, how many had neither their audio nor a typed error in time.
        recovery_s: From the fault to the next ready, or None where nothing should go.
        limit_s: What `recovery_s` may be.
        notes: What else was measured.
    """

    fault: str
    tries: int = 0
    lost: int = 0
    recovery_s: float | None = None
    limit_s: float = BACK_S
    notes: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether nothing was lost and all was in time."""
        return not self.lost and (self.recovery_s is None or self.recovery_s <= self.limit_s)


def slow_copy(repository: Path, made: Path) -> Path:
    """A repository that speaks at the speed of a listener, in `made`."""
    shutil.copytree(repository, made, copy_function=os.link)  # artefacts may be large
    model = made / "fish_llama/1/model.py"
    text = model.read_text("utf-8") + _SLOW
    model.unlink()
    model.write_text(text, encoding="utf-8")
    return made


class World:
    """A server that `launch.serve` keeps serving.

    Attributes:
        facts: Its ready line's.
        process: `python -m launch.serve`.
        said: What it has said on stderr.
    """

    def __init__(self, process: subprocess.Popen, facts: dict[str, str]) -> None:
        self.process, self.facts = process, facts
        self.said: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stderr:
            self.said.append(line)

    @property
    def server(self) -> int:
        """Process id of tritonserver; 0 while there is none."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
                if Path(command[0]).name == "tritonserver":
                    return pid
        return 0

    @property
    def proxy(self) -> int:
        """Process id of the proxy; 0 while there is none."""
        for pid in children(self.process.pid):
            with contextlib.suppress(OSError):
                if "proxy" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:3]:
                    return pid
        return 0

    def stubs(self) -> dict[str, int]:
        """Process ids by instance of a model."""
        return {name: pid for pid, name in processes.stubs(self.server).items()}

    def status(self, path: str = "/v2/health/ready") -> int:
        """HTTP status of a path; 0 without an answer."""
        try:
            with urllib.request.urlopen(f"http://{self.facts['http']}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        with urllib.request.urlopen(self.facts["metrics"], timeout=5) as answer:
            page = answer.read().decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
        return sum(map(float, found))

    def client(self, **options) -> Client:
        return Client(self.facts["grpc"], **options)

    def says(self, words: str) -> bool:
        """Whether it has said so on stderr."""
        return any(words in line for line in self.said)

    def last_words(self) -> str:
        """The start of the last line that it has said on stderr."""
        return self.said[-1].strip()[:200] if self.said else "nothing said"

    def speaks(self, timeout_s: float = 20) -> bool:
        """Whether a new caller gets speech."""
        try:
            with self.client(timeout_s=timeout_s, return_s=0) as client:
                return client.synthesize("Hello.", max_new_tokens=2, **ASKED).duration_s > 0
        except VoiceReelError:
            return False


@contextlib.contextmanager
def served(repository: Path, *arguments: object, **how: Any) -> Iterator[World]:
    """A server on a repository, with as many restarts as a test needs; `how` as in `serve`."""
    with serve("--repository", repository, "--restarts=1000", *arguments, **how) as process:
        world = World(process, ready(process))
        try:
            yield world
        finally:
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(30)


def since(condition: Callable[[], bool], begin: float, limit_s: float) -> float:
    """Seconds from `begin` until a condition holds; infinity if it never does."""
    while not condition():
        if time.monotonic() - begin > limit_s:
            return float("inf")
        time.sleep(0.05)
    return time.monotonic() - begin


class Listener:
    """A caller of one stream, in a thread.

    Attributes:
        outcome: "whole", "refused" (a typed error), "cut", or "" while it listens.
        ended: When, by the monotonic clock.
    """

    def __init__(self, world: World, frames: int = FRAMES, **client: float) -> None:
        self.outcome, self.ended, self.error = "", 0.0, ""
        self.heard = threading.Event()
        self._parts: list[np.ndarray] = []
        self._thread = threading.Thread(target=self._run, args=(world, frames, client), daemon=True)
        self._thread.start()

    def _run(self, world: World, frames: int, options: dict[str, float]) -> None:
        last = False
        try:
            with world.client(timeout_s=60, **options) as client:
                for chunk in client.stream(LONG, max_new_tokens=frames, **ASKED):
                    self._parts.append(chunk.waveform)
                    last = chunk.is_last
                    self.heard.set()
            self.outcome = "whole" if last else "cut"
        except VoiceReelError as error:
            self.outcome, self.error = "refused", f"{type(error).__name__}: {error}"
        except Exception as error:  # anything else is no answer to a caller
            self.outcome, self.error = "cut", repr(error)
        self.ended = time.monotonic()
        self.heard.set()

    def join(self, seconds: float) -> str:
        """The outcome, "hung" after so many seconds."""
        self._thread.join(seconds)
        return self.outcome or "hung"

    @property
    def waveform(self) -> np.ndarray:
        """float32 (samples,), what has been heard."""
        return np.concatenate(self._parts or [np.zeros(0, np.float32)])
