"""Subtitle files as scripts: cues become segments, with their speakers."""

from pathlib import Path

import pytest

from voicereel import Caption, InvalidRequest, load_script, save_captions

SRT = """\
1
00:00:01,000 --> 00:00:02,500
Once upon a time,

2
00:00:02,500 --> 00:00:04,000
there was <i>a</i> dolphin
which said: hello.

3
00:00:04,000 --> 00:00:05,000
- Alice: Good morning.
- How are you?

4
00:00:05,000 --> 00:00:06,000
{\\an8}BOB SMITH: I bought three

5
00:00:06,000 --> 00:00:07,000
things: apples at 12:30.

6
00:00:07,000 --> 00:00:08,000
\u266a

7
00:00:08,000 --> 00:00:09,000
\u674e\u5c0f\u9f99\uff1a\u4f60\u597d
"""
VTT = """\
WEBVTT - a play

STYLE
::cue { color: red }

NOTE nobody says this

first
00:01.000 --> 00:02.000 align:start position:10%
<v.loud Alice>Good <c.x>morning</c>, &lt;Bob&gt;</v>
and you.

00:02.000 --> 00:03.000
<v Bob Smith>Yes. <v Ann>No<00:02.500>!

00:03.000 --> 00:04.000
Maybe.
"""


def said(path: Path) -> list[tuple[str, str]]:
    return [(s.speaker_id, s.text) for s in load_script(path)]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_subrip(tmp_path: Path, ends: str) -> None:
    (tmp_path / "a.SRT").write_bytes(SRT.replace("\n", ends).encode("utf-8-sig"))
    assert said(tmp_path / "a.SRT") == [
        ("Narrator", "Once upon a time, there was a dolphin which said: hello."),
        ("Alice", "Good morning. How are you?"),
        ("BOB SMITH", "I bought three things: apples at 12:30."),
        ("\u674e\u5c0f\u9f99", "\u4f60\u597d"),
    ]


def test_webvtt(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(VTT)
    (tmp_path / "b").write_text(VTT)
    expected = [
        ("Alice", "Good morning, <Bob> and you."), ("Bob Smith", "Yes."), ("Ann", "No!"),
        ("Ann", "Maybe."),
    ]  # fmt: skip
    assert said(tmp_path / "a.vtt") == said(tmp_path / "b") == expected


@pytest.mark.parametrize("text", ["", "WEBVTT\n", "1\n00:00:01,000 --> 00:00:02,000\n\n", "A: b"])
def test_without_cues_it_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.srt").write_text(text)
    with pytest.raises(InvalidRequest, match=r"a\.srt has no cues with words, expected lines like"):
        load_script(tmp_path / "a.srt")


@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_what_we_write_we_read(tmp_path: Path, suffix: str) -> None:
    long = "Dr. Smith paid 1,000 dollars & more, he said, for <nothing> at all. He was late. " * 4
    captions = [
        Caption(start=n, end=n + 1, speaker=speaker, text=text.strip())
        for n, (speaker, text) in enumerate(
            [("alice", "Good morning."), ("O'Brien", long), ("Bob", "Yes: no."), ("Bob", "End.")]
        )
    ]
    save_captions(captions, tmp_path / f"a{suffix}")
    back: dict[str, str] = {}
    for speaker, text in said(tmp_path / f"a{suffix}"):
        back[speaker] = f"{back.get(speaker, '')} {text}".strip()
    assert back == {"alice": "Good morning.", "O'Brien": long.strip(), "Bob": "Yes: no. End."}
