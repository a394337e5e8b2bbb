"""Captions that are too long for a cue: cut at sentences and lines, with times that are true."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.command_line import run
from support.fake_server import RATE_HZ, FakeServer
from support.script_server import joined, spoken, text_of
from voicereel import Caption, Client, InvalidRequest, save_captions, synthesize_script
from voicereel.captions import srt, vtt
from voicereel.cues import Layout, wrapped
from voicereel.script.sentences import parts_of

TWELVE = " ".join(f"{n} is the number of this sentence, which is long." for n in range(10, 22))
CHINESE = "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u3002" * 12


def caption(text: str, end: float = 60.0, speaker: str = "Alice") -> Caption:
    return Caption(start=0.0, end=end, speaker=speaker, text=text)


def cues_in(file: str) -> list[tuple[float, float, list[str]]]:
    """Start, end and lines of each cue of a file."""
    found = []
    for block in file.replace("WEBVTT\n\n", "").split("\n\n"):
        lines = block.strip().split("\n")
        at = next(n for n, line in enumerate(lines) if " --> " in line)
        times = [
            sum(
                float(part) * 60**n
                for n, part in enumerate(clock.replace(",", ".").split(":")[::-1])
            )
            for clock in lines[at].split(" --> ")
        ]
        found.append((*times, lines[at + 1 :]))
    return found


def test_twelve_sentences_are_cues_of_short_lines() -> None:
    cues = cues_in(srt([caption(TWELVE)]))
    assert len(cues) == 12
    assert cues[0][2][0].startswith("Alice: 10 is the number")
    assert all(" ".join(lines).endswith("long.") for _, _, lines in cues)
    assert max(len(lines) for _, _, lines in cues) <= 2
    assert max(len(line) for _, _, lines in cues for line in lines) <= 42
    assert (cues[0][0], cues[-1][1]) == (0, 60)
    assert all(a[1] == b[0] for a, b in pairwise(cues))
    assert [end - start for start, end, _ in cues] == pytest.approx([5] * 12, abs=0.01)


def test_webvtt_names_the_speaker_of_every_cue() -> None:
    cues = cues_in(vtt([caption(TWELVE)]))
    assert len(cues) == 12
    assert {lines[0].partition(">")[0] for _, _, lines in cues} == {"<v Alice"}


def test_a_caption_that_fits_stays_one_cue() -> None:
    text = "Good morning, Bob. Did you sleep well?"
    assert cues_in(srt([caption(text)])) == [
        (0, 60, ["Alice: Good morning, Bob.", "Did you sleep well?"])
    ]


def test_chinese_breaks_without_spaces_and_not_before_a_comma() -> None:
    for layout, longest in ((Layout(), 42), (Layout(16, 1), 16)):
        cues = cues_in(srt([caption(CHINESE)], layout))
        lines = [line for _, _, lines in cues for line in lines]
        assert max(map(len, lines)) <= longest
        assert "".join(lines).replace("Alice: ", "") == CHINESE
        assert not any(line[0] in "\uff0c\u3002" for line in lines)


def test_marks_stay_with_their_letters() -> None:
    lines = wrapped("\u0e01\u0e49" * 40, 9)
    assert [len(line) for line in lines] == [8] * 10
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    assert set(wrapped(family * 5, 12)) == {family * 2, family}


def test_the_size_can_be_set(tmp_path: Path) -> None:
    save_captions([caption(TWELVE)], tmp_path / "a.srt", line_characters=20, cue_lines=1)
    cues = cues_in((tmp_path / "a.srt").read_text())
    assert {len(lines) for _, _, lines in cues} == {1}
    assert max(len(line) for _, _, lines in cues for line in lines) <= 20
    save_captions([caption(TWELVE)], tmp_path / "b.srt", line_characters=1000, cue_lines=9)
    assert len(cues_in((tmp_path / "b.srt").read_text())) == 1
    for wrong in ({"line_characters": 7}, {"cue_lines": 0}):
        with pytest.raises(InvalidRequest, match="expected at least 1 line of 8 characters"):
            save_captions([caption("x")], tmp_path / "a.srt", **wrong)


@given(st.text(max_size=300), st.integers(8, 50), st.integers(1, 3))
def test_nothing_is_lost_and_no_line_is_too_long(text: str, width: int, lines: int) -> None:
    text = " ".join(text.split()) or "x"
    cues = Layout(width, lines).cues_of([(1.0, 2.0, text)], "A: ")
    assert max(len(line) for cue in cues for line in cue.lines) <= width
    assert max(len(cue.lines) for cue in cues) <= lines
    shown = "".join(line for cue in cues for line in cue.lines)
    assert re.sub(r"\s", "", shown) == re.sub(r"\s", "", f"A: {text}")
    assert (cues[0].start, cues[-1].end) == (1.0, 2.0)
    assert all(cue.start <= cue.end for cue in cues)
    assert all(a.end == b.start for a, b in pairwise(cues))


def test_parts_of_a_long_segment_are_exact(fake: FakeServer, client: Client) -> None:
    def uneven(inputs):
        """The last part is spoken ten times as slowly as the others."""
        for answer in spoken(inputs):
            slow = text_of(inputs) == parts_of(TWELVE)[-1]
            yield answer | {"audio": np.repeat(answer["audio"], 10 if slow else 1, axis=1)}

    fake.answer = uneven
    script = [{"speaker_id": "A", "text": text} for text in ("1", TWELVE, "2")]
    captions = synthesize_script(client, script, {"A": None}).captions
    texts = parts_of(TWELVE)
    parts = captions[1]["parts"]
    assert len(texts) > 1 and [part["text"] for part in parts] == texts
    ends = 10 + np.cumsum([len(joined(t)) for t in texts[:-1]] + [10 * len(joined(texts[-1]))])
    assert [round(part["end"] * RATE_HZ) for part in parts] == ends.tolist()
    assert [part["start"] for part in parts[1:]] == [part["end"] for part in parts[:-1]]
    assert (parts[0]["start"], parts[-1]["end"]) == (captions[1]["start"], captions[1]["end"])
    assert "parts" not in captions[0] and "parts" not in captions[2]
    starts = [
        cue.start for cue in Layout().cues_of([(p["start"], p["end"], p["text"]) for p in parts])
    ]
    assert {part["start"] for part in parts} < set(starts)


def test_the_command_line_sets_the_size(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from voicereel import VoiceFeatures

    monkeypatch.chdir(tmp_path)
    VoiceFeatures(np.ones((10, 3), np.int64), (3,), ("hello",), "id").save("A.npz")
    fake.answer = spoken
    Path("play.json").write_text(json.dumps([{"speaker_id": "A", "text": TWELVE}]))
    told = ["script", "play.json", "-o", "a.wav", "--voice", "A=A.npz", "--url", fake.url]
    assert run(*told, "--captions", "a.srt", "--caption-chars", 20, "--caption-lines", 1)[0] == 0
    lines = [line for _, _, lines in cues_in(Path("a.srt").read_text()) for line in lines]
    assert max(map(len, lines)) <= 20
    assert run(*told, "--captions", "a.srt")[0] == 0
    assert len(cues_in(Path("a.srt").read_text())) == 12
    requests = len(fake.requests)
    assert run(*told, "--captions", "a.srt", "--caption-chars", 3)[0] == 2
    assert len(fake.requests) == requests
