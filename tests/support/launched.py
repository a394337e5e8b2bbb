"""Servers that tests start, and what is left of them."""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launch import run_folder
from support import toys

PROJECT = Path(__file__).resolve().parents[2]
SLOW = """
import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(600)
"""


def place_slow(repository: Path) -> None:
    text = toys.config("python", {"x": "FP32 1"}, {"y": "FP32 1"})
    (toys.place(repository, "slow", text) / "model.py").write_text(SLOW)


def regions(name: str) -> list[Path]:
    return list(run_folder.SHARED_MEMORY.glob(f"{name}*"))


def alive(group: int) -> bool:
    """Whether a server or any of its stubs still runs, zombies not counted."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def runs(pid: int) -> bool:
    """Whether a process has not ended; a zombie has."""
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


def run_name(pid: int) -> str:
    """The name of a server's folder and shared memory."""

    def found() -> list[str]:
        command = Path(f"/proc/{pid}/cmdline").read_text()
        return re.findall(r"shm-region-prefix-name=(voicereel_[0-9a-f]{8})_", command)

    wait_until(found)  # between fork and exec, the command is still the parent's
    return found()[0]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def released(lock: Path) -> bool:
    """Whether all threads of a server and its stubs have ended; a zombie may still have some."""
    with lock.open() as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def wait_until(condition, seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"not so after {seconds} s"
        time.sleep(0.05)


@contextlib.contextmanager
def serve(
    *arguments: object, environment: Mapping[str, str] | None = None, inside: Sequence[str] = ()
) -> Iterator[subprocess.Popen]:
    """`python -m launch.serve`, on free ports unless one is named.

    Args:
        arguments: Of it.
        environment: Variables that it has in addition to this process's.
        inside: A command that becomes the one after it.
    """
    ports = [f"--{use}-port=0" for use in ("http", "grpc", "metrics")]
    command = [*inside, sys.executable, "-m", "launch.serve", *ports, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    variables = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, cwd=PROJECT, env=variables, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen) -> dict[str, str]:
    line = process.stdout.readline()
    match = re.fullmatch(
        r"ready: (?P<repository>\S+)( \(profile (?P<profile>\w+)\))? at http://(?P<http>\S+) "
        r"grpc://(?P<grpc>\S+), metrics (?P<metrics>\S+), pid (?P<pid>\d+)\n",
        line,
    )
    assert match, line or process.communicate()
    return match.groupdict()
