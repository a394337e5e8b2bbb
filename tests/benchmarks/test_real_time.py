"""The benchmark of VOICEREEL_REAL_TIME: who is refused asks again, and every answer is heard."""

import time
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.answers import played
from benchmarks.load import real_time
from benchmarks.server_stats import Snapshot
from voicereel import Overloaded


class Client:
    """Refuses every second request; answers have a gap of 0.1 s or so."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def stream(self, text: str, **options: Any) -> Any:
        self.asked.append(options)
        if len(self.asked) % 2:
            refusal = Overloaded("fish_llama: overloaded: with 1 in work ...")
            refusal.retry_after_s = 0.001
            raise refusal
        for index in range(3):
            if index == 2:
                real_time.time.sleep(0.15)
            reason = "stop" if index == 2 else ""
            yield SimpleNamespace(
                waveform=np.zeros(2205), sample_rate_hz=44_100, finish_reason=reason
            )


@pytest.mark.slow
def test_refusals_are_counted_and_asked_again(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(real_time, "snapshot", lambda _: Snapshot())
    monkeypatch.setattr(real_time, "breakdown", lambda _: defaultdict(float))
    client: Any = Client()
    caller = real_time.Caller(client, real_time.TEXTS, 20)
    row = real_time.measured(None, caller, 1, 0.4)  # type: ignore[arg-type]
    assert row["refused"] == (len(client.asked) + 1) // 2 and row["answers"] >= 2
    assert row["underruns"] == row["answers"]
    assert row["share_without_gap_over_200_ms"] == 1 and row["underrun_s"] > 0
    assert {options["max_new_tokens"] for options in client.asked} == {20}
    rows = [
        {"setting": setting, "callers": n, **row} for setting in ("off", "wait") for n in (1, 2)
    ]
    real_time.plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert real_time._table(rows).row_count == 4


def test_a_caller_who_listens_asks_again_when_it_has_heard_all() -> None:
    client: Any = Client()
    caller = real_time.Caller(client, real_time.TEXTS, 20, listening=True)
    begin = time.monotonic()
    answers, refusals = caller.answers(0, begin + 0.3)
    heard_s = sum(a.ttfa_s + a.audio_s + played(a).underrun_s for a in answers)
    assert refusals and 0.15 <= heard_s <= time.monotonic() - begin
