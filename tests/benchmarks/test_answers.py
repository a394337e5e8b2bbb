"""What a listener notices: answers read from perf_analyzer's export or a stream, and played."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.answers import Answer, heard, played, summary
from benchmarks.load.profile import read_answers

SECOND = 10**9


def chunk(index: int, seconds: float, last: bool = False, padding: int = 0) -> dict:
    samples = int(seconds * 44100)
    return {
        "chunk_index": index, "num_samples": samples, "audio": [0.0] * (samples + padding),
        "sample_rate": 44100, "is_last": last, "finish_reason": "stop" if last else "",
    }  # fmt: skip


def export(path: Path, *requests: tuple[int, list[tuple[int, dict]]]) -> Path:
    said = [
        {
            "timestamp": sent,
            "response_timestamps": [stamp for stamp, _ in responses],
            "response_outputs": [outputs for _, outputs in responses],
        }
        for sent, responses in requests
    ]
    path.write_text(json.dumps({"experiments": [{"requests": said}]}))
    return path


def test_an_answer_is_read_chunk_by_chunk_and_padding_is_cut(tmp_path) -> None:
    disordered = [
        (12 * SECOND, chunk(1, 1.0, last=True, padding=500)),
        (13 * SECOND, chunk(0, 0.5)),
        (13 * SECOND, {}),  # an empty final response
    ]
    (answer,) = read_answers(export(tmp_path / "p.json", (10 * SECOND, disordered)))
    assert answer == Answer(10.0, (3.0, 3.0), (0.5, 1.0), "stop")
    assert (answer.ttfa_s, answer.latency_s, answer.audio_s) == (3.0, 3.0, 1.5)


@pytest.mark.parametrize(
    ("chunks", "complaint"),
    [([chunk(0, 1.0)], "has no end"), ([chunk(1, 1.0, last=True)], "lacks chunks")],
)
def test_an_answer_that_is_not_whole_is_refused(tmp_path, chunks, complaint) -> None:
    responses = [(2 * SECOND, c) for c in chunks]
    with pytest.raises(ValueError, match=complaint):
        read_answers(export(tmp_path / "p.json", (SECOND, responses)))


@pytest.mark.parametrize(
    ("arrivals", "durations", "expected"),
    [
        ((1.0, 1.3, 1.9), (0.4, 0.6, 1.0), []),  # no chunk is missing
        ((1.0, 1.5, 2.5), (0.4, 0.6, 1.0), [0.1, 0.4]),
        (
            (1.0, 1.5, 9.0),
            (0.05, 0.6, 1.0),
            [0.45, 9.0 - 2.1],
        ),  # starts with the first, however short
        ((1.0, 5.0, 6.0), (1.0, 0.0, 1.0), [4.0]),  # the empty one is not what is missing
        ((1.0,), (0.01,), []),
    ],
)
def test_a_listener_has_gaps_where_a_chunk_is_missing(arrivals, durations, expected) -> None:
    listener = played(Answer(0.0, arrivals, durations, "stop"))
    assert listener.gaps_s == pytest.approx(expected)
    assert listener.underrun_s == pytest.approx(sum(expected))


def test_the_share_of_answers_without_a_gap_over_each_limit() -> None:
    """Gaps of none, 40, 60, 2 x 90 and 150 ms: the longest of an answer counts."""
    late = ((0.0, 0.0), (0.04, 0.0), (0.0, 0.06), (0.09, 0.09), (0.15, 0.0))
    answers = [
        Answer(0.0, (0.5, 0.9 + first, 1.3 + first + second), (0.4, 0.4, 0.4), "stop")
        for first, second in late
    ]
    found = summary(answers)
    shares = [found[f"share_without_gap_over_{ms}_ms"] for ms in (50, 100, 200)]
    assert shares == [0.4, 0.8, 1.0]
    assert (found["underruns"], found["interrupted"]) == (5, 4)
    assert found["underrun_s"] == pytest.approx(0.04 + 0.06 + 0.18 + 0.15)


def test_the_figures_of_a_load() -> None:
    answers = [Answer(10.0, (0.5, 1.0), (1.0, 1.0), "stop"), Answer(12.0, (1.5,), (4.0,), "length")]
    found = summary(answers)
    assert (found["audio_s"], found["wall_s"]) == (6.0, 3.5)
    assert found["rtf"] == pytest.approx(3.5 / 6)
    assert found["ttfa_s_p50"] == 1.0
    assert found["request_rtf_p50"] == pytest.approx((1 / 2 + 1.5 / 4) / 2)
    assert (found["gap_s_max"], found["interrupted"]) == (0.5, 0)
    assert found["arrivals_per_s"] == 0.5


def test_a_stream_is_timed_from_its_request(monkeypatch) -> None:
    clock = iter([10.0, 10.5, 12.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    waveform = np.zeros(22_050, np.float32)
    chunks = [
        SimpleNamespace(waveform=waveform, sample_rate_hz=44_100, finish_reason=reason)
        for reason in ("", "stop")
    ]
    answer = heard(lambda: chunks)
    assert answer == Answer(10.0, (0.5, 2.0), (0.5, 0.5), "stop")
    assert (answer.ttfa_s, answer.rtf, answer.gaps_s) == (0.5, 2.0, (1.5,))
