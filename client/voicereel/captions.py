"""Captions: who says what, from when to when; as dictionaries, SubRip, WebVTT and JSON."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from voicereel.cues import CUE_LINES, LAYOUT, LINE_CHARACTERS, Cue, Layout
from voicereel.errors import InvalidRequest
from voicereel.text import broken_character


class CaptionPart(TypedDict):
    """Some sentences of a long segment, spoken by one request; times as in `Caption`."""

    start: float
    end: float
    text: str


class Caption(TypedDict):
    """One segment of a script, with its times in the audio.

    Attributes:
        start: Seconds; `round(start * sample_rate_hz)` is the first sample of the segment.
        end: Seconds; `round(end * sample_rate_hz)` is the first sample after the segment.
        speaker: Who speaks.
        text: What is said; the text of a skipped segment begins with "[not spoken: ...]".
        error: Why the segment was skipped; absent if it was not.
        parts: The requests of a segment that was too long for one; absent if it was not.
        estimated: Present and true if the times are estimated, not measured.
    """

    start: float
    end: float
    speaker: str
    text: str
    error: NotRequired[str]
    parts: NotRequired[list[CaptionPart]]
    estimated: NotRequired[bool]


def srt(captions: Iterable[Caption], layout: Layout = LAYOUT) -> str:
    """The text of a SubRip file; times are rounded to milliseconds.

    A caption that does not fit into one cue becomes several; the first names the speaker.
    """
    cues = [
        cue for c in captions for cue in layout.cues_of(_spans(c), f"{_one_line(c['speaker'])}: ")
    ]
    return "\n".join(
        f"{number}\n{_times(cue, ',')}\n" + "".join(f"{line}\n" for line in cue.lines)
        for number, cue in enumerate(cues, start=1)
    )


def vtt(captions: Iterable[Caption], layout: Layout = LAYOUT) -> str:
    """The text of a WebVTT file, whose cues all name the speaker; times are as in `srt`."""
    cues = [
        f"{_times(cue, '.')}\n<v {_escaped(_one_line(c['speaker']))}>"
        + "".join(f"{_escaped(line)}\n" for line in cue.lines)
        for c in captions
        for cue in layout.cues_of(_spans(c))
    ]
    return "\n".join(["WEBVTT\n", *cues])


def as_json(captions: Iterable[Caption], layout: Layout = LAYOUT) -> str:
    """The text of a JSON list, one object for each caption; times are exact to the sample."""
    return json.dumps(list(captions), ensure_ascii=False, indent=2) + "\n"


_WRITERS = {".srt": srt, ".vtt": vtt, ".json": as_json}


def check_captions_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a file name whose format cannot be written, before anything is synthesised for it.

    Raises:
        InvalidRequest: If the suffix is none of .srt, .vtt, .json.
    """
    if Path(path).suffix.lower() not in _WRITERS:
        raise InvalidRequest(f"cannot write {path}: expected a name in {', '.join(_WRITERS)}")


def save_captions(
    captions: Iterable[Caption],
    path: str | os.PathLike[str],
    *,
    line_characters: int = LINE_CHARACTERS,
    cue_lines: int = CUE_LINES,
) -> None:
    """Write a .srt, .vtt or .json file.

    A caption that is too long for one cue is cut at its sentences, and a long sentence at its
    lines. Cues are exact where a request of a long segment begins; within a request, time is
    shared by characters. JSON has one entry for each caption.

    Args:
        captions: What `synthesize_script` returns.
        path: The file.
        line_characters: Characters of a line, at most; at least 8.
        cue_lines: Lines of a cue, at most.

    Raises:
        InvalidRequest: If the suffix is none of these, a text cannot be written, or the file cannot
            be created.
    """
    check_captions_suffix(path)
    captions = list(captions)
    for number, caption in enumerate(captions, start=1):
        if problem := broken_character(caption["speaker"]) or broken_character(caption["text"]):
            raise InvalidRequest(f"caption {number}: {problem}")
    text = _WRITERS[Path(path).suffix.lower()](captions, Layout(line_characters, cue_lines))
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}") from None


def _spans(caption: Caption) -> list[tuple[float, float, str]]:
    spans = caption.get("parts") or [caption]
    return [(span["start"], span["end"], _one_line(span["text"])) for span in spans]


def _times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"


def _clock(time_s: float, point: str) -> str:
    seconds, milliseconds = divmod(round(time_s * 1000), 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"


def _one_line(text: str) -> str:
    """Replace line breaks by spaces, since an empty line would end the caption."""
    return " ".join(text.split())


def _escaped(text: str) -> str:
    """Escape WebVTT's markup, the arrow --> included."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
