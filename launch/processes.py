"""What the kernel says of a server's processes: which there are, and what has become of them."""

import contextlib
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path

# Becomes the command after it, which the kernel then ends with the thread that started it. It runs
# after exec: code between fork and exec would meet the threads of gRPC, which abort there. The
# signals named by their numbers are held back: their being pending can be seen in /proc.
# A guard ends the group of a command some time after the command: its children may wait for it with
# a lock held, and then no thread of theirs can notice; the launcher may have been killed too.
_TIED = """import ctypes, os, select, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
signal.pthread_sigmask(signal.SIG_SETMASK, map(int, filter(None, sys.argv[2].split(","))))
command = os.pidfd_open(os.getpid())
if sys.argv[3] and os.getpgrp() == os.getpid() and not os.fork():
    os.dup2(command, 0)
    os.closerange(1, 1 << 16)  # the log, and the lock of a folder
    select.select([0], [], [])
    time.sleep(float(sys.argv[3]))
    os.killpg(0, signal.SIGKILL)
os.getppid() == int(sys.argv[1]) and os.execv(sys.argv[4], sys.argv[4:])"""
_GUARD_S = 1  # seconds that the children of a command have to end by themselves
_STUB = "triton_python_backend_stub"
_KILLED_S = 5  # that the kernel may take to end what was killed, on a busy machine
_MOST_DESCRIPTORS = 65_536  # a caller's connection is one
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def allow_descriptors() -> None:
    """Let this process and what it starts have as many descriptors as the system gives.

    A shell or a container often begins with a soft limit of 1,024, which idle callers use up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def tied(held_back: Collection[signal.Signals] = (), guarded: bool = False) -> list[str]:
    """Arguments before a command that must not outlive this process.

    The kernel ties it to the thread that starts it, so there are none outside the main thread.

    Args:
        held_back: Signals that are to stay pending in it.
        guarded: Whether its process group, which must be its own, ends `_GUARD_S` seconds after it.
    """
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = ",".join(str(int(number)) for number in held_back)
    return [sys.executable, "-ISc", _TIED, str(os.getpid()), numbers, str(_GUARD_S) * guarded]


def stubs(server: int) -> dict[int, str]:
    """Process ids of a tritonserver's stubs, and the instance of a model that each runs."""
    found: dict[int, str] = {}
    for tasks in Path(f"/proc/{server}/task").glob("*/children"):  # a thread started each
        with contextlib.suppress(OSError):
            for pid in map(int, tasks.read_text("utf-8").split()):
                if name := _instance(pid):
                    found[pid] = name
    return found


def _instance(pid: int) -> str:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_text("utf-8").split("\0")
        if Path(command[0]).name == _STUB and len(command) > 8:
            return command[8]
    return ""


def kill_group(group: int) -> None:
    """Kill what is left of a process group, and wait until the kernel has ended it.

    Zombies may stay: orphans belong to process 1, which asks for them when it likes. Where that is
    this process, as in a container, it does so here.
    """
    give_up = time.monotonic() + _KILLED_S
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
        while _runs(group) and time.monotonic() < give_up:
            time.sleep(0.02)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG) != (0, 0):
            pass


def _runs(group: int) -> bool:
    """Whether any thread of a process group has not ended; that of a zombie's process has."""
    for path in Path("/proc").glob("[0-9]*"):
        stat = _stat(int(path.name))
        if stat and int(stat[2]) == group and (stat[0] != "Z" or _has_threads(path)):
            return True
    return False


def _has_threads(process: Path) -> bool:
    """Whether a zombie's process has threads beside the first, which may hold its files."""
    with contextlib.suppress(OSError):
        return len(os.listdir(process / "task")) > 1
    return False


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped it."""
    return _stat(pid)[:1] in (["T"], ["t"])


def cpu_s(pids: Collection[int]) -> float:
    """Seconds of CPU time that these processes have used."""
    return sum(int(stat[11]) + int(stat[12]) for stat in map(_stat, pids) if stat) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none for a process that has gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return []


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal has been sent to a process that holds it back."""
    bit = 1 << (number - 1)
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
            if line.startswith(("ShdPnd:", "SigPnd:")) and int(line.split()[1], 16) & bit:
                return True
    return False
