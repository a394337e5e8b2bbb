"""Subtitle files as scripts: who says what in SubRip and WebVTT. Their times are ignored."""

import html
import re

from voicereel.errors import InvalidRequest

NARRATOR = "Narrator"  # speaks what comes before the first name
TIMING = re.compile(r"\s*(?:\d+:)?\d+:\d\d[,.]\d+\s*-->")

LONGEST = 100_000  # characters of a segment: two hours of speech
_END = 80  # characters of a text in which its sentence ends, with what closes it
_VOICE = re.compile(r"<v(?:\.[^ \t<>]*)?[ \t]+([^<>]+)>")  # WebVTT: <v Alice>, <v.loud Alice>
_MARKUP = re.compile(  # <i>, <c.loud>, <00:01.000>, {\an8}
    r"</?(?:b|i|u|s|font|c|v|ruby|rt|lang)\b[^<>]*>|<\d[^<>]*>|\{\\[^{}]*\}", re.IGNORECASE
)
_DASH = re.compile(r"^[-\u2013\u2014\u2010]\s*")  # begins the line of another speaker
# A name in front of a cue: one word, or a few that all begin with a capital.
_NAME = re.compile(r"([^\W_][\w.'\u2019-]*(?: (?![a-z])[\w.'\u2019-]+){0,3})\s*(?:: |:$|\uff1a)\s*")
_SENTENCE_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964][\"'\u201d\u2019\u300d)\]]*$")


def check_length(text: str, source: str, line: int) -> None:
    """Refuse a segment that nobody says in one go.

    Raises:
        InvalidRequest: Names the line.
    """
    if len(text) > LONGEST:
        raise InvalidRequest(
            f"{source}, line {line}: a segment has {len(text)} characters up to here, expected at "
            f"most {LONGEST}. Cut it into several"
        )


def read_subtitles(text: str, source: str) -> tuple[list[dict[str, str]], list[int]]:
    """Segments of a subtitle file, and the line of each.

    A cue names its speaker as <v Alice> or `Alice: `. A cue without a name belongs to the speaker
    before, and goes on with the segment before if that has not ended its sentence.

    Raises:
        InvalidRequest: If it holds no cue.
    """
    segments: list[dict[str, str]] = []
    lines: list[int] = []
    speaker = NARRATOR
    for number, cue in _cues(text):
        for name, said in _turns(cue):
            is_open = segments and not _SENTENCE_END.search(segments[-1]["text"][-_END:])
            if is_open and name[:1].islower():  # "I bought three" "things: apples"
                name, said = "", f"{name}: {said}"
            speaker = name or speaker
            if is_open and not name:
                segments[-1]["text"] += f" {said}"
                check_length(segments[-1]["text"], source, number)
            else:
                check_length(said, source, number)
                segments.append({"speaker_id": speaker, "text": said})
                lines.append(number)
    if not segments:
        raise InvalidRequest(
            f"{source} has no cues with words, expected lines like 00:00:01,000 --> 00:00:02,000, "
            "each with the text below it"
        )
    return segments, lines


def _cues(text: str) -> list[tuple[int, list[str]]]:
    """The lines below each line of times, to the next empty one; with the number of the first."""
    cues: list[tuple[int, list[str]]] = []
    is_open = False
    for number, line in enumerate(text.split("\n"), start=1):
        if TIMING.match(line):
            cues.append((number + 1, []))
            is_open = True
        elif not line.strip():
            is_open = False
        elif is_open:
            cues[-1][1].append(line.strip())
    return cues


def _turns(lines: list[str]) -> list[tuple[str, str]]:
    """What is said in a cue: name, or "" where none is given, and words."""
    turns: list[tuple[str, str]] = []
    for line in lines:
        name = ""
        pieces = _VOICE.split(line)
        for index, piece in enumerate(pieces):
            if index % 2:
                name = html.unescape(piece).strip()
                continue
            said = _DASH.sub("", html.unescape(_MARKUP.sub("", piece)).strip())
            if not name and (found := _NAME.match(said)):
                name, said = found[1], said[found.end() :]
            if name or not turns:
                turns.append((name, said))
            else:
                turns[-1] = (turns[-1][0], f"{turns[-1][1]} {said}".strip())
            name = ""
    return [(name, said) for name, said in turns if any(map(str.isalnum, said))]
