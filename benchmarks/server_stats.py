"""What a server did between two moments: its statistics, its metrics, its processes' use.

before = snapshot(server)
...
used = snapshot(server) - before
"""

import contextlib
import json
import os
import re
import time
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.server import Server

_SAMPLE = re.compile(r"^(?P<name>[a-z_:A-Z0-9]+)(?:\{(?P<labels>[^}]*)\})? (?P<value>\S+)$")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class ModelStats:
    """What one model did, all its instances together.

    Attributes:
        inferences: Requests answered, warm-up included.
        executions: Batches that they were executed in.
        compute_s: Seconds in the backend, summed over batches.
        queue_s: Seconds requests waited, summed.
        batches: Number of batches by their size.
    """

    inferences: int = 0
    executions: int = 0
    compute_s: float = 0.0
    queue_s: float = 0.0
    batches: Counter[int] = field(default_factory=Counter)

    @property
    def mean_batch(self) -> float:
        """Requests a batch; 0 without any batch."""
        return self.inferences / self.executions if self.executions else 0.0

    def __sub__(self, other: "ModelStats") -> "ModelStats":
        return ModelStats(*(a - vars(other)[name] for name, a in vars(self).items()))


@dataclass
class Snapshot:
    """Counters at one moment, or the differences between two moments.

    Attributes:
        models: Statistics of each model by its name.
        metrics: Prometheus samples by name and labels, as `name{label="value"}`.
        cpu_s: Processor seconds of the server's processes, by their role.
        peak_bytes: Largest resident memory of each role so far; a difference keeps the later one.
    """

    models: dict[str, ModelStats] = field(default_factory=lambda: defaultdict(ModelStats))
    metrics: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peak_bytes: dict[str, int] = field(default_factory=dict)

    def __sub__(self, other: "Snapshot") -> "Snapshot":
        return Snapshot(
            defaultdict(ModelStats, {k: v - other.models[k] for k, v in self.models.items()}),
            defaultdict(float, {k: v - other.metrics[k] for k, v in self.metrics.items()}),
            defaultdict(float, {k: v - other.cpu_s[k] for k, v in self.cpu_s.items()}),
            self.peak_bytes,
        )


def _settled(url: str) -> list[dict[str, Any]]:
    """Triton's statistics. It counts a batch a moment after it has sent the answers."""
    found = _get(url)
    for _ in range(10):  # under load they never settle
        time.sleep(0.05)
        before, found = found, _get(url)
        if found == before:
            break
    return json.loads(found)["model_stats"]


def snapshot(server: Server) -> Snapshot:
    """Read a running server's counters, and its processes' from the kernel."""
    found = Snapshot()
    for model in _settled(f"http://{server.http_url}/v2/models/stats"):
        times, batches = model["inference_stats"], model["batch_stats"]
        found.models[model["name"]] = ModelStats(
            int(model["inference_count"]),
            int(model["execution_count"]),
            sum(int(batch["compute_infer"]["ns"]) for batch in batches) / 1e9,
            int(times["queue"]["ns"]) / 1e9,
            Counter({int(b["batch_size"]): int(b["compute_infer"]["count"]) for b in batches}),
        )
    for line in _get(server.metrics_url).splitlines():
        if sample := _SAMPLE.match(line):
            labels = f"{{{sample['labels']}}}" if sample["labels"] else ""
            found.metrics[sample["name"] + labels] = float(sample["value"])
    for pid, role in _processes(server.pid):
        _add_process(found, pid, role)
    return found


def memory_bytes(server: Server) -> int:
    """Resident memory of the server and its stubs; shared pages count once (PSS)."""
    total = 0
    for pid, _ in _processes(server.pid):
        with contextlib.suppress(OSError):  # the process has just ended
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += 1024 * int(re.findall(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[0])
    return total


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def _processes(server_pid: int) -> list[tuple[int, str]]:
    """Process id and role of the server and of each stub, all of which share its session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            if os.getsid(pid) != server_pid:
                continue
            arguments = (folder / "cmdline").read_text().split("\0")
        except (OSError, UnicodeDecodeError):
            continue  # the process has just ended
        model = next((a for a in arguments if a.startswith("fish_")), "")
        role = re.sub(r"_\d+_\d+$", "", model)  # MODEL_GROUP_INSTANCE without the numbers
        found.append((pid, role or "tritonserver"))
    return found


def _add_process(found: Snapshot, pid: int, role: str) -> None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    found.cpu_s[role] += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    found.peak_bytes[role] = found.peak_bytes.get(role, 0) + 1024 * int(peak[1] if peak else 0)
