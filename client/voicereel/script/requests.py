"""A script and its voices become one request for each segment, checked before any work."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voicereel.errors import InvalidRequest, VoiceReelError
from voicereel.options import option_tensors
from voicereel.script.segment import MAX_SILENCE_S, Script, ScriptLike, parse_script
from voicereel.text import composed
from voicereel.voice import Voice, VoiceFeatures

_SHOWN = 40  # characters of a segment's text that an error message repeats


@dataclass(frozen=True)
class SegmentRequest:
    """A segment, ready to be spoken.

    Attributes:
        name: Number, speaker and first words of the segment, for error messages.
        speaker: The segment's speaker.
        text: What is said.
        arguments: Keyword arguments for `Client.synthesize` and `Client.stream`.
        silence_after_s: Seconds of silence that follow the segment.
    """

    name: str
    speaker: str
    text: str
    arguments: dict[str, Any]
    silence_after_s: float

    @contextmanager
    def named(self) -> Iterator[None]:
        """Put the segment's name in front of an error's message, and keep the error's class."""
        try:
            yield
        except VoiceReelError as error:
            raise type(error)(f"{self.name}: {error}") from error


def requests_of(
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    silence_s: float,
    timeout_s: float | None,
    options: Mapping[str, Any],
) -> list[SegmentRequest]:
    """The request for each segment of a script; `synthesize_script` explains the arguments.

    Raises:
        InvalidRequest: If script, speakers or voices are wrong.
        TypeError: If there is no such option, or its value is of another type.
        ValueError: If silence_s is negative, too long, or not finite.
    """
    if not (math.isfinite(silence_s) and 0 <= silence_s <= MAX_SILENCE_S):
        raise ValueError(f"silence_s is {silence_s}, expected 0 to {MAX_SILENCE_S:.0f} seconds")
    segments = parse_script(script)
    names = _names(segments)
    voices = _voices(segments, names, speaker_features)
    requests = []
    for number, segment in enumerate(segments):
        silence = segment.silence_after_s
        if silence is None:  # silence_s is between segments, so the last one has none
            silence = silence_s if number + 1 < len(segments) else 0.0
        arguments = {
            **options,
            **segment.options,
            "voice": voices[segment.speaker_id],
            "timeout_s": timeout_s,
        }
        request = SegmentRequest(
            names[number], segment.speaker_id, segment.text, arguments, silence
        )
        with request.named():
            option_tensors({**options, **segment.options})  # raises if one is wrong
        requests.append(request)
    return requests


def _names(segments: Script) -> list[str]:
    return [
        f"segment {number} of {len(segments)} ({segment.speaker_id}: {_beginning(segment.text)!r})"
        for number, segment in enumerate(segments, start=1)
    ]


def _beginning(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _voices(
    segments: Script, names: list[str], speaker_features: Mapping[str, Voice | None]
) -> dict[str, VoiceFeatures | None]:
    """The voice of each speaker in the script; every voice file is read once."""
    speaker_features = {composed(name): voice for name, voice in speaker_features.items()}
    for name, segment in zip(names, segments, strict=True):
        if segment.speaker_id not in speaker_features:
            known = f", only {', '.join(speaker_features)}" if speaker_features else ""
            raise InvalidRequest(
                f"{name}: there are no features of speaker {segment.speaker_id!r}{known}. "
                "Give those of every speaker, or correct the name."
            )
    speakers = dict.fromkeys(segment.speaker_id for segment in segments)
    return {speaker: _voice(speaker, speaker_features[speaker]) for speaker in speakers}


def _voice(speaker: str, voice: Voice | None) -> VoiceFeatures | None:
    if voice is None or isinstance(voice, VoiceFeatures):
        return voice
    if not isinstance(voice, str | os.PathLike):
        raise InvalidRequest(
            f"the features of speaker {speaker!r} are {type(voice).__name__}, expected "
            "VoiceFeatures or the name of a file of them"
        )
    if Path(voice).suffix.lower() != ".npz":
        raise InvalidRequest(
            f"the features of speaker {speaker!r} are {voice}, expected a .npz file. Encode a "
            "recording once: Client.encode_voice, or: voicereel voice encode"
        )
    return VoiceFeatures.load(voice)
