"""Captions: the times they stand for, and files that players can read."""

import json
from pathlib import Path

import numpy as np
import pytest

from voicereel import Caption, InvalidRequest, save_captions
from voicereel.captions import as_json, srt, vtt

RATE_HZ = 44_100


def caption(start: float, end: float, text: str = "one", speaker: str = "A") -> Caption:
    return Caption(start=start, end=end, speaker=speaker, text=text)


def test_srt() -> None:
    captions = [
        caption(0, 2048 / RATE_HZ),
        caption(2048 / RATE_HZ, 2048 / RATE_HZ + 3700, "two", "B"),
    ]
    assert srt(captions) == (
        "1\n00:00:00,000 --> 00:00:00,046\nA: one\n\n2\n00:00:00,046 --> 01:01:40,046\nB: two\n"
    )


def test_milliseconds_carry_over() -> None:
    assert "--> 00:00:01,000" in srt([caption(0, 44_099 / RATE_HZ)])  # 0.99998 s


def test_an_empty_line_in_a_text_does_not_end_its_caption() -> None:
    assert srt([caption(0, 1, "a\n\nb")]).splitlines()[2] == "A: a b"


def test_vtt() -> None:
    captions = [caption(0, 1.5, "a --> b & <i>c</i>", "Q&A <1>"), caption(1.5, 3600, "Grüße\n\n!")]
    assert vtt(captions) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\n"
        "<v Q&amp;A &lt;1&gt;>a --&gt; b &amp; &lt;i&gt;c&lt;/i&gt;\n\n"
        "00:00:01.500 --> 01:00:00.000\n"
        "<v A>Grüße !\n"
    )


def test_json_keeps_every_sample() -> None:
    samples = np.random.default_rng(0).integers(0, RATE_HZ * 36_000, 1000).tolist()
    captions = json.loads(as_json([caption(n / RATE_HZ, (n + 1) / RATE_HZ) for n in samples]))
    assert [round(c["start"] * RATE_HZ) for c in captions] == samples
    assert [round(c["end"] * RATE_HZ) for c in captions] == [n + 1 for n in samples]
    assert set(captions[0]) == {"start", "end", "speaker", "text"}


@pytest.mark.parametrize(
    ("name", "begins"), [("a.srt", "1\n00:"), ("a.VTT", "WEBVTT\n"), ("a.json", "[\n")]
)
def test_files(tmp_path: Path, name: str, begins: str) -> None:
    save_captions([caption(0, 1, "Grüße")], tmp_path / name)
    written = (tmp_path / name).read_bytes().decode()
    assert written.startswith(begins)
    assert "Grüße" in written


def test_files_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"a\.txt: expected a name in \.srt, \.vtt, \.json"):
        save_captions([], tmp_path / "a.txt")
    with pytest.raises(InvalidRequest, match=r"cannot write .*a\.srt: No such file"):
        save_captions([], tmp_path / "missing" / "a.srt")
