"""The way to the first audio, from counters of a server."""

from collections import defaultdict

import pytest

from benchmarks import first_audio
from benchmarks.server_stats import ModelStats, Snapshot


def test_hops_add_up_to_what_the_client_heard(tmp_path) -> None:
    """Of two requests: what no stage says it did is the client's, the ensemble's and the way."""
    used = Snapshot(
        defaultdict(ModelStats, {
            "fish_prompt": ModelStats(2, 2, compute_s=0.004, queue_s=0.002),
            "fish_decoder": ModelStats(2, 2, compute_s=0.06, queue_s=0.007),
        }),
        defaultdict(float, {
            "fish_llama_first_windows_total": 2, "fish_llama_first_window_seconds_total": 0.1,
            'fish_llama_seconds_total{phase="prefill"}': 0.02,
            'fish_llama_seconds_total{phase="decode_step"}': 0.03,
            'fish_llama_seconds_total{phase="fast_loop"}': 0.02,
            'fish_llama_seconds_total{phase="sample"}': 0.01,
        }),
    )  # fmt: skip
    found = first_audio.hops(used, 0.1)
    expected = 0.003, 0.01, 0.03, 0.01, 0.0035, 0.03, 0.0135
    assert [found[hop] for hop in first_audio.HOPS] == pytest.approx(list(expected))
    assert found["first audio"] == 0.1
    assert sum(found.values()) == pytest.approx(0.2)
    first_audio.draw({"a": found, "b": found}, tmp_path / "out" / "way.png")
    assert (tmp_path / "out" / "way.png").read_bytes()[:4] == b"\x89PNG"
