"""Writes speech into an audio file and times it, for `voicereel say` and `voicereel script`."""

import itertools
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voicereel.audio import Audio, AudioChunk, AudioWriter, check_suffix
from voicereel.captions import check_captions_suffix, save_captions
from voicereel.cli.ending import Stopped
from voicereel.cli.session import console
from voicereel.cli.stdout import STANDARD_OUTPUT, StdoutWriter, check_stdout, write_wav
from voicereel.cues import Layout
from voicereel.errors import InvalidRequest, VoiceReelError
from voicereel.places import check_different, check_place, save_somewhere
from voicereel.script.reel import Reel

# Low estimates, so that a disk is called full only where it is: fast speech (15 bytes a second are
# usual), and files that compress well.
FASTEST_BYTES_PER_S = 25
LEAST_BYTES_PER_S = {".wav": 88_200, ".flac": 25_000, ".ogg": 5_000, ".mp3": 5_000}


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


@dataclass(frozen=True)
class Outputs:
    """Where a command writes.

    Attributes:
        audio: The audio file; `-` is standard output.
        captions: The file of the captions, if they are wanted.
    """

    audio: Path
    captions: Path | None = None

    @property
    def is_stdout(self) -> bool:
        return self.audio == STANDARD_OUTPUT

    def check(
        self, text_bytes: int, silence_s: float = 0.0, read: Iterable[Path | None] = ()
    ) -> None:
        """Refuse what cannot be written, before any request.

        Args:
            text_bytes: Of all that will be spoken, in UTF-8.
            silence_s: Seconds of silence beside it.
            read: Files that the command reads.

        Raises:
            InvalidRequest: Says which file cannot be written and why.
        """
        check_different([None if self.is_stdout else self.audio, self.captions], read)
        if self.captions:
            check_captions_suffix(self.captions)
            check_place(self.captions, 2 * text_bytes)
        if self.is_stdout:
            check_stdout()
            return
        check_suffix(self.audio)
        expected_s = text_bytes / FASTEST_BYTES_PER_S + silence_s
        check_place(self.audio, int(expected_s * LEAST_BYTES_PER_S[self.audio.suffix.lower()]))

    def save(self, audio: Audio, captions: Callable[[Path], None] | None = None) -> None:
        """Write finished audio, and captions by `captions(path)`; neither is lost.

        Raises:
            InvalidRequest: If a file could not be written; says where it is instead.
        """

        def save(place: Path) -> None:
            if place == STANDARD_OUTPUT:
                write_wav(audio.waveform, audio.sample_rate_hz)
            else:
                audio.save(place)

        problems = []
        if captions and self.captions:  # first: the reader of standard output may leave
            problems.append(save_somewhere(captions, self.captions))
        name = "speech.wav" if self.is_stdout else self.audio.name
        problems.insert(0, save_somewhere(save, self.audio, name))
        if any(problems):
            raise InvalidRequest("\n".join(filter(None, problems)))


def write_whole(synthesize: Callable[[], Audio], outputs: Outputs) -> Spoken:
    """Write audio that comes in one piece."""
    begin = time.perf_counter()
    audio = synthesize()
    wall_s = time.perf_counter() - begin
    outputs.save(audio)
    return Spoken(
        str(outputs.audio),
        audio.duration_s,
        wall_s,
        None,
        audio.sample_rate_hz,
        audio.finish_reason,
        audio.warnings,
    )


def write_streamed(
    chunks: Generator[AudioChunk], outputs: Outputs, progress: Callable[[float, float], None]
) -> Spoken:
    """Write chunks as they arrive.

    Args:
        chunks: What `Client.stream` returns; closed at the end.
        outputs: Where to; after an error the file holds the chunks that had arrived.
        progress: Called with the seconds of audio and of time so far.

    Raises:
        VoiceReelError: The error of the stream; its message says how much audio is in the file.
    """
    begin, samples = time.perf_counter(), 0
    with closing(chunks):
        chunk = first = next(chunks)  # a stream has at least one chunk, or raises
        ttfa_s = wall_s = time.perf_counter() - begin
        rate_hz = first.sample_rate_hz
        with _writer(outputs, rate_hz) as writer:
            try:
                for chunk in itertools.chain([first], chunks):
                    wall_s = time.perf_counter() - begin
                    writer.write(chunk.waveform)
                    samples += len(chunk.waveform)
                    progress(samples / rate_hz, wall_s)
            except (VoiceReelError, Stopped, KeyboardInterrupt) as error:
                where = "standard output" if outputs.is_stdout else outputs.audio
                held = f"{where} holds the first {samples / rate_hz:.2f} s only"
                if isinstance(error, VoiceReelError):
                    raise type(error)(f"{error}\n{held}") from None
                console.print(f"stopped: {held}", markup=False, highlight=False, soft_wrap=True)
                raise
    return Spoken(
        str(outputs.audio),
        samples / rate_hz,
        wall_s,
        ttfa_s,
        rate_hz,
        chunk.finish_reason,
        chunk.warnings,
    )


def _writer(outputs: Outputs, sample_rate_hz: int) -> AudioWriter | StdoutWriter:
    if outputs.is_stdout:
        return StdoutWriter(sample_rate_hz)
    return AudioWriter(outputs.audio, sample_rate_hz)


def write_reel(synthesize: Callable[[], Reel], outputs: Outputs, layout: Layout) -> SpokenScript:
    """Write the audio of a script, and its captions in cues of that size."""
    begin = time.perf_counter()
    reel = synthesize()
    wall_s = time.perf_counter() - begin
    outputs.save(
        reel.audio,
        lambda path: save_captions(
            reel.captions,
            path,
            line_characters=layout.line_characters,
            cue_lines=layout.cue_lines,
        ),
    )
    return SpokenScript(
        str(outputs.audio),
        reel.audio.duration_s,
        wall_s,
        None,
        reel.audio.sample_rate_hz,
        reel.audio.finish_reason,
        reel.audio.warnings,
        captions=str(outputs.captions) if outputs.captions else None,
        segments=len(reel.captions),
        speakers=len({caption["speaker"] for caption in reel.captions}),
        skipped=[caption["error"] for caption in reel.captions if "error" in caption],
    )
