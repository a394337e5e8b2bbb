"""What the kernel is asked about a server's processes."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launch import processes
from support.launched import alive, runs, wait_until


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


def test_a_killed_group_has_ended() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & echo; wait"], start_new_session=True,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        process.stdout.readline()
        process.kill()
        process.wait()
        processes.kill_group(process.pid)
        processes.kill_group(process.pid)  # there is none any more
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)


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
