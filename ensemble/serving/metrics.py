"""What models tell Triton's metrics, most of it the LLaMA stage. Imports only in a server.

| metric | kind | meaning |
|--|--|--|
| `fish_llama_requests_total{outcome}` | counter | requests that ended: stop, length, ... |
| `fish_llama_first_window_seconds_total` | counter | from arrival to the first window, summed |
| `fish_llama_first_windows_total` | counter | requests in that sum |
| `fish_llama_first_window_seconds` | histogram | the same, for percentiles |
| `fish_llama_frames_total` | counter | frames generated |
| `fish_llama_steps_total{batch}` | counter | steps, by batch size rounded up to a power of two |
| `fish_llama_seconds_total{phase}` | counter | spent in prefill, decode_step, sample, fast_loop |
| `fish_llama_prefix_{hits,misses,evictions}_total` | counter | voice-prefix cache |
| `fish_llama_prefix_bytes`, `fish_llama_kv_bytes` | gauge | memory held |
| `fish_llama_kv_bytes_limit` | gauge | the most they may take |
| `fish_encoder_cache_{hits,misses}_total` | counter | voices encoded before, and anew |
| `fish_llama_slots` | gauge | requests decoded together, at most; halved if memory runs out |
| `fish_llama_active_slots`, `fish_llama_waiting_requests` | gauge | now |
| `fish_llama_streams_in_time` | gauge | streams that are admitted together, at most |
| `fish_llama_expected_wait_seconds` | gauge | until a request that comes now has a slot |
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import time
from typing import Any

import triton_python_backend_utils as pb_utils

from engine.schedule.stats import EngineStats

# Bounds of the histogram, in seconds: as the gateway's for first audio, which is the next hop.
FIRST_WINDOW_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
PUBLISH_S = 0.5  # seconds between two publications; a few messages each


class Metrics:
    """Metrics of a model, made when they are first told."""

    def __init__(self) -> None:
        self.families: dict[str, pb_utils.MetricFamily] = {}
        self.metrics: dict[tuple[str, str], pb_utils.Metric] = {}
        self.told: dict[tuple[str, str], float] = {}

    def gauge(self, name: str, value: float) -> None:
        """Set this instance's part of a gauge, which is the sum over a model's instances."""
        grown = value - self.told.get((name, ""), 0)
        if grown or (name, "") not in self.told:
            self.metric(name, kind="GAUGE").increment(grown)
            self.told[name, ""] = value

    def count(self, name: str, total: float, label: str = "", value: str = "") -> None:
        """Raise a counter to a total."""
        grown = total - self.told.get((name, value), 0)
        if grown or (name, value) not in self.told:  # a rate needs a beginning, if it is 0
            self.metric(name, label, value).increment(grown)
            self.told[name, value] = total

    def metric(self, name: str, label: str = "", value: str = "", kind: str = "COUNTER"):
        """The metric itself."""
        if name not in self.families:
            self.families[name] = pb_utils.MetricFamily(
                name=name,
                description="See ensemble/serving/metrics.py",
                kind=getattr(pb_utils.MetricFamily, kind),
            )
        if (name, value) not in self.metrics:
            given: dict[str, Any] = {"labels": {label: value} if label else {}}
            if kind == "HISTOGRAM":
                given["buckets"] = list(FIRST_WINDOW_S)
            self.metrics[name, value] = self.families[name].Metric(**given)
        return self.metrics[name, value]

    def close(self) -> None:
        """Free the metrics while the stub can still tell Triton so.

        A metric that is freed when the interpreter ends crashes the process.
        """
        self.metrics.clear()
        self.families.clear()


class LlamaMetrics(Metrics):
    """Publishes now and then: every figure that has changed is a message to Triton."""

    def __init__(self) -> None:
        super().__init__()
        self.next_publish = 0.0

    def count_outcome(self, outcome: str) -> None:
        """Count a request that has ended."""
        self.metric("fish_llama_requests_total", "outcome", outcome).increment(1)

    def count_first_window(self, seconds: float) -> None:
        """Count a request's first window, sent so many seconds after its arrival."""
        self.metric("fish_llama_first_windows_total").increment(1)
        self.metric("fish_llama_first_window_seconds_total").increment(seconds)
        self.metric("fish_llama_first_window_seconds", kind="HISTOGRAM").observe(seconds)

    def publish(self, stats: EngineStats) -> None:
        """Tell Triton what has changed. Called after every step."""
        now = time.monotonic()
        if now < self.next_publish and not stats.is_idle:
            return
        self.next_publish = now + PUBLISH_S
        self.gauge("fish_llama_slots", stats.slots)
        self.gauge("fish_llama_kv_bytes_limit", stats.kv_bytes_limit)
        self.gauge("fish_llama_active_slots", stats.active)
        self.gauge("fish_llama_waiting_requests", stats.waiting)
        self.gauge("fish_llama_streams_in_time", stats.in_time)
        wait_s = self.metric("fish_llama_expected_wait_seconds", kind="GAUGE")
        wait_s.set(round(stats.expected_wait_s, 1))  # of the instance that spoke last
        self.gauge("fish_llama_kv_bytes", stats.kv_bytes)
        self.gauge("fish_llama_prefix_bytes", stats.prefixes.num_bytes)
        self.count("fish_llama_frames_total", stats.frames)
        self.count("fish_llama_prefix_hits_total", stats.prefixes.hits)
        self.count("fish_llama_prefix_misses_total", stats.prefixes.misses)
        self.count("fish_llama_prefix_evictions_total", stats.prefixes.evictions)
        for phase, seconds in stats.seconds.items():
            self.count("fish_llama_seconds_total", seconds, "phase", phase)
        for batch, steps in stats.steps.items():
            self.count("fish_llama_steps_total", steps, "batch", str(batch))
