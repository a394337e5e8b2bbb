"""What the kernel is asked about a server's processes."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import processes
from support.launched import PROJECT, alive, runs, wait_until


@pytest.fixture
def held_back() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is tied to this one and does not hear SIGTERM."""
    command = [*processes.tied([signal.SIGTERM]), "/bin/sleep", "60"]
    with subprocess.Popen(command) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        yield process
        process.kill()


def test_a_signal_that_is_held_back_is_seen(held_back) -> None:
    assert not processes.is_pending(held_back.pid, signal.SIGTERM)
    held_back.terminate()
    wait_until(lambda: processes.is_pending(held_back.pid, signal.SIGTERM))
    assert not processes.is_pending(held_back.pid, signal.SIGINT)
    assert held_back.poll() is None


def test_idle_callers_do_not_use_up_the_descriptors() -> None:
    """What is started has as many as this process: a server's connections are its own."""
    script = (
        "import resource as r, subprocess as s, sys"
        "; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
        "; from launch import processes as p; p.allow_descriptors()"
        "; s.run([*p.tied(), sys.executable, '-c', 'import resource as r; "
        "print(*r.getrlimit(r.RLIMIT_NOFILE))'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          cwd=PROJECT)  # fmt: skip
    soft, hard = map(int, done.stdout.split())
    assert soft == (min(hard, 65_536) if hard > 0 else 65_536)


ORPHANS = """
import ctypes, os, signal, subprocess, sys, time
from launch import processes
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans become this one's
process = subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], start_new_session=True,
                           stdout=subprocess.PIPE)
process.stdout.readline()
process.kill()
process.wait()
print(process.pid, flush=True)
"""


def test_a_killed_group_has_ended() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], start_new_session=True,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        process.kill()
        process.wait()
        processes.kill_group(process.pid)
        processes.kill_group(process.pid)  # there is none any more
        assert not alive(process.pid)


def test_zombies_that_nobody_asks_for_are_not_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(processes, "_KILLED_S", 600)
    script = ORPHANS + "sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # fmt: skip
        group = int(parent.stdout.readline())
        killing = threading.Thread(target=processes.kill_group, args=[group], daemon=True)
        killing.start()
        killing.join(20)
        os.killpg(group, 0)  # it is there
        assert not killing.is_alive()
        parent.stdin.close()


def test_zombies_are_taken_where_they_are_this_processs() -> None:
    """As in a container, whose process 1 it may be."""
    script = ORPHANS + "processes.kill_group(process.pid); os.killpg(process.pid, 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True)
    assert b"ProcessLookupError" in done.stderr


def test_what_a_killed_command_started_ends_after_it(monkeypatch) -> None:
    """Though nobody is left who would know of it: the launcher may have been killed too."""
    monkeypatch.setattr(processes, "_GUARD_S", 0.5)
    command = [*processes.tied(guarded=True), "/bin/sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        assert runs(child)
        wait_until(lambda: not alive(process.pid))


def test_a_group_that_is_not_the_commands_own_is_left_alone() -> None:
    with subprocess.Popen([*processes.tied(guarded=True), "/bin/sleep", "60"]) as process:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        process.kill()
    assert children == ""
