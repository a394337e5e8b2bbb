"""Speech into an audio file, timed: what `voicereel say` and `voicereel script` do."""

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
    """What a synthesis came to.

    Attributes:
        file: Where the audio lies.
        audio_s: Seconds of it.
        wall_s: Seconds until the last of it was here.
        ttfa_s: Seconds until the first of it was here; None if it came in one piece.
        sample_rate_hz: Samples per second.
        finish_reason: As in `voicereel.Audio`.
    """

    file: str
    audio_s: float
    wall_s: float
    ttfa_s: float | None
    sample_rate_hz: int
    finish_reason: str

    @property
    def rtf(self) -> float:
        """Real-time factor: below 1 is faster than it plays."""
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
    """What the synthesis of a script came to.

    Attributes:
        captions: Where they lie, if anywhere.
        segments: How many there are.
        speakers: How many say them.
        skipped: Why segments are missing from the audio, each naming one.
    """

    captions: str | None
    segments: int
    speakers: int
    skipped: list[str]


def write_whole(synthesize: Callable[[], Audio], output: Path) -> Spoken:
    """Write what comes in one piece."""
    begin = time.perf_counter()
    audio = synthesize()
    wall_s = time.perf_counter() - begin
    audio.save(output)
    return Spoken(
        str(output), audio.duration_s, wall_s, None, audio.sample_rate_hz, audio.finish_reason
    )


def write_streamed(
    chunks: Generator[AudioChunk], output: Path, progress: Callable[[float, float], None]
) -> Spoken:
    """Write chunks as they come.

    Args:
        chunks: Of `Client.stream`.
        output: The audio file; after an error it holds what had come.
        progress: Told the seconds of audio so far, and of time.

    Raises:
        VoiceReelError: What the stream raised, and how much of it is in the file.
    """
    begin, samples = time.perf_counter(), 0
    chunk = first = next(chunks)  # at least one comes, or an error
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
    return Spoken(str(output), samples / rate_hz, wall_s, ttfa_s, rate_hz, chunk.finish_reason)


def write_reel(synthesize: Callable[[], Reel], output: Path, captions: Path | None) -> SpokenScript:
    """Write a script that is spoken, and its captions if there is a name for them.

    Raises:
        InvalidRequest: Before it is spoken, if files of such names cannot be written.
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
        captions=str(captions) if captions else None,
        segments=len(reel.captions),
        speakers=len({caption["speaker"] for caption in reel.captions}),
        skipped=[caption["error"] for caption in reel.captions if "error" in caption],
    )
