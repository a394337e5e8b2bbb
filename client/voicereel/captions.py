"""Captions: who says what, from when to when; as dictionaries, SubRip, WebVTT and JSON."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from voicereel.errors import InvalidRequest


class Caption(TypedDict):
    """One segment of a script, with its times in the audio.

    Attributes:
        start: Seconds; `round(start * sample_rate_hz)` is the first sample of the segment.
        end: Seconds; `round(end * sample_rate_hz)` is the first sample after the segment.
        speaker: Who speaks.
        text: What is said; the text of a skipped segment begins with "[not spoken: ...]".
        error: Why the segment was skipped; absent if it was not.
        estimated: Present and true if the times are estimated, not measured.
    """

    start: float
    end: float
    speaker: str
    text: str
    error: NotRequired[str]
    estimated: NotRequired[bool]


def srt(captions: Iterable[Caption]) -> str:
    """The text of a SubRip file; times are rounded to milliseconds."""
    return "\n".join(
        f"{number}\n{_clock(c['start'], ',')} --> {_clock(c['end'], ',')}\n"
        f"{_one_line(c['speaker'])}: {_one_line(c['text'])}\n"
        for number, c in enumerate(captions, start=1)
    )


def vtt(captions: Iterable[Caption]) -> str:
    """The text of a WebVTT file with speakers; times are rounded to milliseconds."""
    cues = [
        f"{_clock(c['start'], '.')} --> {_clock(c['end'], '.')}\n"
        f"<v {_escaped(c['speaker'])}>{_escaped(c['text'])}\n"
        for c in captions
    ]
    return "\n".join(["WEBVTT\n", *cues])


def as_json(captions: Iterable[Caption]) -> str:
    """The text of a JSON list; times are exact to the sample."""
    return json.dumps(list(captions), ensure_ascii=False, indent=2) + "\n"


_WRITERS = {".srt": srt, ".vtt": vtt, ".json": as_json}


def check_captions_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a file name whose format cannot be written, before anything is synthesised for it.

    Raises:
        InvalidRequest: If the suffix is none of .srt, .vtt, .json.
    """
    if Path(path).suffix.lower() not in _WRITERS:
        raise InvalidRequest(f"cannot write {path}: expected a name in {', '.join(_WRITERS)}")


def save_captions(captions: Iterable[Caption], path: str | os.PathLike[str]) -> None:
    """Write a .srt, .vtt or .json file.

    Raises:
        InvalidRequest: If the suffix is none of these, or the file cannot be created.
    """
    check_captions_suffix(path)
    text = _WRITERS[Path(path).suffix.lower()](captions)
    try:
        Path(path).write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"cannot write {path}: {error.strerror}") from None


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
    return _one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
