"""`voicereel say` and `voicereel script`."""

import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typing_extensions import Unpack

from voicereel.audio import check_suffix
from voicereel.cli.options import Json, Timeout, Url, Via, takes_options
from voicereel.cli.output import write_reel, write_streamed, write_whole
from voicereel.cli.session import connected, console, library, print_result
from voicereel.errors import InvalidRequest
from voicereel.options import Options
from voicereel.script.files import load_script
from voicereel.script.segment import Script
from voicereel.script.speak import synthesize_script
from voicereel.script.synthesis import OnError
from voicereel.settings import settings

Output = Annotated[Path, typer.Option("-o", "--output", help=".wav, .flac, .ogg or .mp3")]


@takes_options
def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    output: Output,
    voice: Annotated[
        str | None, typer.Option(help="Name of a kept voice, its .npz file, or a recording.")
    ] = None,
    voice_text: Annotated[
        str | None, typer.Option(help="The words spoken in the recording.")
    ] = None,
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    stream: Annotated[
        bool, typer.Option("--stream", help="Write audio as it arrives; needs gRPC.")
    ] = False,
    as_json: Json = False,
    **options: Unpack[Options],
) -> None:
    """Speak a text into an audio file."""
    with connected(url, protocol, timeout) as client, console.status("speaking") as status:
        check_suffix(output)
        file = library().find(voice) if voice else None
        if stream:
            chunks = client.stream(text, file, voice_text=voice_text, **options)
            spoken = write_streamed(
                chunks, output, lambda audio_s, wall_s: status.update(_speed(audio_s, wall_s))
            )
        else:
            spoken = write_whole(
                lambda: client.synthesize(text, file, voice_text=voice_text, **options), output
            )
    if spoken.finish_reason == "length":
        console.print(
            "[yellow]cut off by max_new_tokens[/yellow]: allow more, or speak a long text as a "
            "script of one segment, which is split into sentences"
        )
    print_result(spoken.as_dict() if as_json else str(spoken))


@takes_options
def script(
    file: Annotated[Path, typer.Argument(help=".json, .yaml, or lines of SPEAKER: text")],
    output: Output,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            help="SPEAKER=VOICE, where VOICE is the name of a kept voice or a .npz file. A speaker "
            "without this option has the kept voice of the same name."
        ),
    ] = None,
    captions: Annotated[Path | None, typer.Option(help=".srt, .vtt or .json")] = None,
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    silence: Annotated[float, typer.Option(help="Seconds between segments.", min=0, max=60)] = 0.0,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Requests in flight at a time; VOICEREEL_MAX_WORKERS if left out.", min=1
        ),
    ] = None,
    language: Annotated[
        str, typer.Option(help="ISO 639 code; decides where long texts are split.")
    ] = "en",
    on_error: Annotated[
        OnError,
        typer.Option(help="skip: a segment that fails leaves a gap, and its caption says so."),
    ] = "raise",
    together: Annotated[
        bool,
        typer.Option(help="All segments as one dialogue, each heard by the next: for S2 servers."),
    ] = False,
    as_json: Json = False,
    **options: Unpack[Options],
) -> None:
    """Speak a script of many speakers into one audio file, with captions."""
    with connected(url, protocol, timeout) as client:
        segments = load_script(file)
        voices = _voices(segments, voice or [])
        with _Bar(len(segments)) as bar:
            spoken = write_reel(
                lambda: synthesize_script(
                    client,
                    segments,
                    voices,
                    max_workers=workers or settings().max_workers,
                    parallel=settings().parallel_synthesis or workers is not None,
                    on_error=on_error,
                    silence_s=silence,
                    language=language,
                    together=together,
                    progress=bar.advance_one,
                    **options,
                ),
                output,
                captions,
            )
    for error in spoken.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(error)}", highlight=False, soft_wrap=True)
    print_result(spoken.as_dict() if as_json else str(spoken))


def _voices(segments: Script, given: list[str]) -> dict[str, Path]:
    """The file of each speaker's voice: from `--voice`, else the kept voice of the same name."""
    kept = library()
    voices = {}
    for pair in given:
        speaker, _, name = pair.partition("=")
        if not (speaker and name):
            raise InvalidRequest(f"--voice is {pair!r}, expected SPEAKER=VOICE")
        voices[speaker] = kept.find(name)
    for speaker in dict.fromkeys(segment.speaker_id for segment in segments):
        if speaker not in voices:
            voices[speaker] = kept.find(speaker)
    return voices


class _Bar(Progress):
    """Shows segments done, seconds of audio and the real-time factor so far."""

    def __init__(self, segments: int) -> None:
        columns = (
            "speaking",
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
        )
        super().__init__(*columns, console=console)
        self._task = self.add_task("", total=segments, speed="")
        self._adding, self._begin, self._audio_s = threading.Lock(), time.perf_counter(), 0.0

    def advance_one(self, _: int, audio_s: float) -> None:
        """Count one more segment as done; called from any thread."""
        with self._adding:
            self._audio_s += audio_s
            speed = _speed(self._audio_s, time.perf_counter() - self._begin)
        self.update(self._task, advance=1, speed=speed)


def _speed(audio_s: float, wall_s: float) -> str:
    return f"{audio_s:.1f} s of audio" + (f", RTF {wall_s / audio_s:.2f}" if audio_s else "")
