"""Speaks a script as dialogues: several turns in one generation, each heard by the next.

    audio, captions = synthesize_script(client, script, voices, together=True)

For servers of Fish Audio S2. A script of more than `TURNS_TOGETHER` segments becomes several
dialogues; each begins with the voices alone, and what was said in the one before is forgotten.
Where a segment ends within a dialogue is estimated from the lengths of the texts, so its caption
says `estimated`; where a dialogue ends is exact.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from voicereel.audio import Audio
from voicereel.captions import Caption
from voicereel.client import Client
from voicereel.errors import InvalidRequest
from voicereel.script.reel import Reel
from voicereel.script.requests import SegmentRequest, requests_of
from voicereel.script.segment import ScriptLike
from voicereel.script.sentences import SPEAKER_MARK
from voicereel.speaker import Speaker
from voicereel.utterance import joined
from voicereel.voice import Voice, VoiceFeatures

TURNS_TOGETHER = 40  # of one dialogue: some four minutes, a third of what S2-Pro's context holds
_FRAMES_PER_TURN = 1024  # as many as one request may have by default


def speak_together(
    client: Speaker,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    timeout_s: float | None,
    options: Mapping[str, Any],
) -> Reel:
    """Speak a script dialogue by dialogue; the arguments are those of `synthesize_script`.

    Raises:
        InvalidRequest: Before any work, also if a segment has options or silence of its own.
        VoiceReelError: The error of a dialogue; the message names its first segment.
    """
    requests = requests_of(script, speaker_features, 0.0, timeout_s, options)
    for request in requests:
        _check(request, options)
    _check_server(client)
    parts = range(0, len(requests), TURNS_TOGETHER)
    dialogues = [requests[begin : begin + TURNS_TOGETHER] for begin in parts]
    return _joined([_dialogue(client, turns, timeout_s, options) for turns in dialogues])


def _check_server(client: Speaker) -> None:
    """Refuse a server whose checkpoint speaks one turn a request."""
    family = "fish-speech 0.1.0 in this process"
    if isinstance(client, Client):
        found = client.checkpoint()
        if found.is_dialogue:
            return
        family = f"the server's checkpoint, of family {found.family},"
    raise InvalidRequest(
        f"{family} speaks one speaker a request, and together=True needs a server of Fish Audio "
        "S2. Leave it out: every segment is then a request of its own"
    )


def _check(request: SegmentRequest, options: Mapping[str, Any]) -> None:
    own = {n for n, v in request.arguments.items() if n not in ("voice", "timeout_s")}
    if SPEAKER_MARK.search(request.text):
        raise InvalidRequest(
            f"{request.name}: has <|speaker:N|> in its text, where together=True would hear "
            "another speaker. Make it a segment of its own"
        )
    changed = sorted(n for n in own if request.arguments[n] != options.get(n))
    if changed or request.silence_after_s:
        what = ", ".join(changed) or "silence_after_s"
        raise InvalidRequest(
            f"{request.name}: has {what} of its own, but together=True speaks all segments in one "
            "generation. Give options to the whole script, or leave together out"
        )


def _dialogue(
    client: Speaker,
    turns: list[SegmentRequest],
    timeout_s: float | None,
    options: Mapping[str, Any],
) -> Reel:
    """Speak some segments in one request."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(turn.speaker for turn in turns))}
    text = "".join(f"<|speaker:{numbers[turn.speaker]}|>{turn.text}" for turn in turns)
    frames = min(_FRAMES_PER_TURN * len(turns), 32768)
    arguments: dict[str, Any] = {"max_new_tokens": frames, **options}
    with turns[0].named():
        voice = _voice(turns, numbers)
        audio = client.synthesize(text, voice, timeout_s=timeout_s, **arguments)
    return Reel(audio, _captions(turns, audio))


def _voice(turns: list[SegmentRequest], numbers: Mapping[str, int]) -> VoiceFeatures | None:
    """The recordings of all speakers, their words marked with the speaker's number."""
    voices = {turn.speaker: turn.arguments["voice"] for turn in turns}
    without = [name for name, voice in voices.items() if voice is None]
    if without and len(without) < len(voices):
        raise InvalidRequest(
            f"speaker {without[0]!r} has no voice, but others have. In a dialogue give the "
            "features of every speaker, or of none"
        )
    whole = None
    for name, voice in voices.items():
        if voice is None:
            return None
        words = tuple(f"<|speaker:{numbers[name]}|>{text}" for text in voice.texts)
        marked = VoiceFeatures(voice.codes, voice.frames, words, voice.checkpoint_id)
        whole = marked if whole is None else whole + marked
    return whole


def _captions(turns: list[SegmentRequest], audio: Audio) -> list[Caption]:
    """Captions whose inner boundaries are in proportion to the bytes of the texts."""
    lengths = np.cumsum([0, *(len(turn.text.encode()) for turn in turns)])
    samples = np.round(lengths / lengths[-1] * len(audio.waveform))
    times = [float(sample) / audio.sample_rate_hz for sample in samples]
    return [
        Caption(start=start, end=end, speaker=t.speaker, text=t.text, estimated=len(turns) > 1)
        for t, (start, end) in zip(turns, itertools.pairwise(times), strict=True)
    ]


def _joined(reels: list[Reel]) -> Reel:
    captions: list[Caption] = []
    begin_s = 0.0
    for audio, found in reels:
        for caption in found:
            caption["start"] += begin_s
            caption["end"] += begin_s
        captions += found
        begin_s += audio.duration_s
    return Reel(joined([audio for audio, _ in reels]), captions)
