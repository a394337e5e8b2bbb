"""Writes speech into an audio file and times it, for `voicereel say` and `voicereel script`."""

import itertools
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voicereel.audio import Audio, AudioChunk, AudioWriter, check_suffix
from voicereel.captions import check_captions_suffix, save_captions
from voicereel.errors import VoiceReelError
from voicereel.script.reel import Reel


@dataclass(frozen=True)
class Spoken:
    """The result of a synthesis.

    Attributes:
        file: The audio file.
        audio_s: Seconds of audio.
        wall_s: Seconds until all of it had arrived.
        ttfa_s: Seconds until the first chunk arrived; None if it came in one piece.
        sample_rate_hz: Samples per second.
        finish_reason: As in `voicereel.Audio`.
        warnings: As in `voicereel.Audio`.
    """

    file: str
    audio_s: float
    wall_s: float
    ttfa_s: float | None
    sample_rate_hz: int
    finish_reason: str
    warnings: tuple[str, ...]

    @property
    def rtf(self) -> float:
        """Real-time factor: wall time over duration of the audio."""
        return self.wall_s / self.audio_s if self.audio_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"rtf": self.rtf}

    def __str__(self) -> str:
        first = "" if self.ttfa_s is None else f", first audio after {self.ttfa_s:.2f} s"
        return (
            f"{self.file}: {self.audio_s:.2f} s of audio in {self.wall_s:.2f} s "
            f"(RTF {self.rtf:.2f}){first}"
        )


@dataclass(frozen=True)
class SpokenScript(Spoken):
    """The result of the synthesis of a script.

    Attributes:
        captions: The file of the captions, if one was written.
        segments: Number of segments.
        speakers: Number of speakers.
        skipped: The error of each segment that is missing from the audio; it names the segment.
    """

    captions: str | None
    segments: int
    speakers: int
    skipped: list[str]


def write_whole(synthesize: Callable[[], Audio], output: Path) -> Spoken:
    """Write audio that comes in one piece."""
    begin = time.perf_counter()
    audio = synthesize()
    wall_s = time.perf_counter() - begin
    audio.save(output)
    return Spoken(
        str(output),
        audio.duration_s,
        wall_s,
        None,
        audio.sample_rate_hz,
        audio.finish_reason,
        audio.warnings,
    )


def write_streamed(
    chunks: Generator[AudioChunk], output: Path, progress: Callable[[float, float], None]
) -> Spoken:
    """Write chunks as they arrive.

    Args:
        chunks: What `Client.stream` returns.
        output: The audio file; after an error it holds the chunks that had arrived.
        progress: Called with the seconds of audio and of time so far.

    Raises:
        VoiceReelError: The error of the stream; its message says how much audio is in the file.
    """
    begin, samples = time.perf_counter(), 0
    chunk = first = next(chunks)  # a stream has at least one chunk, or raises
    ttfa_s = wall_s = time.perf_counter() - begin
    rate_hz = first.sample_rate_hz
    with AudioWriter(output, rate_hz) as writer:
        try:
            for chunk in itertools.chain([first], chunks):
                wall_s = time.perf_counter() - begin
                writer.write(chunk.waveform)
                samples += len(chunk.waveform)
                progress(samples / rate_hz, wall_s)
        except VoiceReelError as error:
            held = f"{output} holds the first {samples / rate_hz:.2f} s only"
            raise type(error)(f"{error}\n{held}") from None
    ending = chunk.finish_reason, chunk.warnings
    return Spoken(str(output), samples / rate_hz, wall_s, ttfa_s, rate_hz, *ending)


def write_reel(synthesize: Callable[[], Reel], output: Path, captions: Path | None) -> SpokenScript:
    """Write the audio of a script, and its captions if `captions` names a file.

    Raises:
        InvalidRequest: Before anything is spoken, if a file name has a wrong suffix.
    """
    check_suffix(output)
    if captions:
        check_captions_suffix(captions)
    begin = time.perf_counter()
    reel = synthesize()
    wall_s = time.perf_counter() - begin
    reel.audio.save(output)
    if captions:
        save_captions(reel.captions, captions)
    return SpokenScript(
        str(output),
        reel.audio.duration_s,
        wall_s,
        None,
        reel.audio.sample_rate_hz,
        reel.audio.finish_reason,
        reel.audio.warnings,
        captions=str(captions) if captions else None,
        segments=len(reel.captions),
        speakers=len({caption["speaker"] for caption in reel.captions}),
        skipped=[caption["error"] for caption in reel.captions if "error" in caption],
    )
