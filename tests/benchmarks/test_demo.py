"""The demo's captions: the samples they stand for, to the millisecond."""

import numpy as np

from benchmarks.demo.run import Line, captions_of, srt
from voicereel import Audio


def line(speaker: str, text: str, samples: int) -> Line:
    return Line(speaker, text, Audio(np.zeros(samples, np.float32), 44_100, "stop"), 0.1)


def test_captions_follow_each_other_without_a_gap() -> None:
    captions = captions_of([line("A", "one", 2048), line("B", "two", 44_100 * 3700)])
    assert [(c.start, c.end) for c in captions] == [(0, 2048), (2048, 2048 + 44_100 * 3700)]
    assert srt(captions, 44_100) == (
        "1\n00:00:00,000 --> 00:00:00,046\nA: one\n\n2\n00:00:00,046 --> 01:01:40,046\nB: two\n"
    )


def test_milliseconds_carry_over() -> None:
    captions = captions_of([line("A", "one", 44_099)])  # 0.99998 s
    assert "--> 00:00:01,000" in srt(captions, 44_100)
