"""What the LLaMA stage tells Triton's metrics. Imports only in a server.

| metric | kind | meaning |
|--|--|--|
| `fish_llama_requests_total{outcome}` | counter | left the stage: stop, length, cancelled, ... |
| `fish_llama_first_window_seconds_total` | counter | from arrival to the first window, summed |
| `fish_llama_first_windows_total` | counter | requests in that sum |
| `fish_llama_frames_total` | counter | frames generated |
| `fish_llama_steps_total{batch}` | counter | decode steps by requests in them, to powers of two |
| `fish_llama_seconds_total{phase}` | counter | spent in prefill, decode_step, sample, fast_loop |
| `fish_llama_prefix_{hits,misses,evictions}_total` | counter | voice-prefix cache |
| `fish_llama_prefix_bytes`, `fish_llama_kv_bytes` | gauge | memory held |
| `fish_llama_kv_bytes_limit` | gauge | the most they may take |
| `fish_llama_slots` | gauge | requests decoded together, at most; halved when memory runs out |
| `fish_llama_active_slots`, `fish_llama_waiting_requests` | gauge | now |
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import time

import triton_python_backend_utils as pb_utils

from engine.schedule.scheduler import Engine

PUBLISH_S = 0.5


class LlamaMetrics:
    """Collects at every step, cheaply; tells Triton now and then, which costs a message each."""

    def __init__(self) -> None:
        self.families: dict[str, pb_utils.MetricFamily] = {}
        self.metrics: dict[tuple[str, str], pb_utils.Metric] = {}
        self.told: dict[tuple[str, str], float] = {}
        self.next_publish = 0.0

    def count_outcome(self, outcome: str) -> None:
        """A request has left the stage."""
        self._metric("fish_llama_requests_total", "outcome", outcome).increment(1)

    def count_first_window(self, seconds: float) -> None:
        """A request got its first window."""
        self._metric("fish_llama_first_windows_total").increment(1)
        self._metric("fish_llama_first_window_seconds_total").increment(seconds)

    def publish(self, engine: Engine) -> None:
        """Called after every step."""
        now = time.monotonic()
        idle = not (engine.active or engine.waiting)
        if now < self.next_publish and not idle:
            return
        self.next_publish = now + PUBLISH_S
        prefixes = engine.prefixes.stats
        self._gauge("fish_llama_slots", engine.slots)
        self._gauge("fish_llama_kv_bytes_limit", engine.kv_bytes_limit)
        self._gauge("fish_llama_active_slots", len(engine.active))
        self._gauge("fish_llama_waiting_requests", len(engine.waiting))
        self._gauge("fish_llama_kv_bytes", engine.cache.num_bytes)
        self._gauge("fish_llama_prefix_bytes", prefixes.num_bytes)
        self._raise("fish_llama_frames_total", engine.frames)
        self._raise("fish_llama_prefix_hits_total", prefixes.hits)
        self._raise("fish_llama_prefix_misses_total", prefixes.misses)
        self._raise("fish_llama_prefix_evictions_total", prefixes.evictions)
        for phase, seconds in engine.seconds.items():
            self._raise("fish_llama_seconds_total", seconds, "phase", phase)
        for batch, steps in engine.steps.items():
            self._raise("fish_llama_steps_total", steps, "batch", str(batch))

    def close(self) -> None:
        """Let go of what Triton counts in, while the stub can still tell it so.

        A metric that goes with the interpreter, later, ends its process by a wrong address.
        """
        self.metrics.clear()
        self.families.clear()

    def _gauge(self, name: str, value: float) -> None:
        if self.told.get((name, "")) != value:
            self._metric(name, kind="GAUGE").set(value)
            self.told[name, ""] = value

    def _raise(self, name: str, total: float, label: str = "", value: str = "") -> None:
        grown = total - self.told.get((name, value), 0)
        if grown:
            self._metric(name, label, value).increment(grown)
            self.told[name, value] = total

    def _metric(self, name: str, label: str = "", value: str = "", kind: str = "COUNTER"):
        if name not in self.families:
            self.families[name] = pb_utils.MetricFamily(
                name=name,
                description="See ensemble/serving/metrics.py",
                kind=getattr(pb_utils.MetricFamily, kind),
            )
        if (name, value) not in self.metrics:
            labels = {label: value} if label else {}
            self.metrics[name, value] = self.families[name].Metric(labels=labels)
        return self.metrics[name, value]
