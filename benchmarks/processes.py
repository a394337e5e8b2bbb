"""CPU time and memory of a server, by model: each Python-served model is a process of its own."""

import contextlib
import os
from collections import defaultdict
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_seconds(server_pid: int) -> dict[str, float]:
    """User and system seconds so far, of each model's process and of `tritonserver` itself."""
    seconds: dict[str, float] = defaultdict(float)
    for pid, name in _members(server_pid):
        with contextlib.suppress(OSError):  # it has just ended
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds[name] += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return seconds


def memory_bytes(server_pid: int) -> dict[str, int]:
    """Proportional set size, so that pages shared between processes count once."""
    memory: dict[str, int] = defaultdict(int)
    for pid, name in _members(server_pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes = next(line.split()[1] for line in lines if line.startswith("Pss:"))
            memory[name] += int(kilobytes) * 1024
    return memory


def _members(server_pid: int) -> list[tuple[int, str]]:
    """Processes of the server's group, by name."""
    members = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.name)
            if os.getpgid(pid) == server_pid:
                command = (path / "cmdline").read_text(errors="replace").split("\0")
                members.append((pid, _name(command)))
    return members


def _name(command: list[str]) -> str:
    """A stub's first argument is <repository>/<model>/<version>/<file>."""
    if command[0].endswith("triton_python_backend_stub") and len(command) > 1:
        return Path(command[1]).parents[1].name
    return "tritonserver"
