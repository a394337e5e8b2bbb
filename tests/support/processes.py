"""What the processes of a server take."""

from pathlib import Path


def megabytes(group: int) -> float:
    """Memory of a process group, without pages that its processes share; MB."""
    pages = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                resident, shared = map(int, (process / "statm").read_text().split()[1:3])
                pages += resident - shared
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * 4096 / 1e6
