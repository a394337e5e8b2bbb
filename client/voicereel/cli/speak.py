"""`voicereel say` and `voicereel script`."""

import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typing_extensions import Unpack

from voicereel.cli.options import Json, Retries, Timeout, Url, Via, takes_options
from voicereel.cli.output import Outputs, Spoken, write_reel, write_streamed, write_whole
from voicereel.cli.session import connected, console, library, print_result, print_warnings
from voicereel.cli.speech import Speech
from voicereel.cli.texts import (
    STANDARD_INPUT,
    check_is_no_file,
    given_text,
    read_standard_input,
)
from voicereel.cues import CUE_LINES, LINE_CHARACTERS, Layout
from voicereel.errors import InvalidRequest
from voicereel.options import Options
from voicereel.script.files import load_script, parse_script_text
from voicereel.script.segment import Script
from voicereel.script.speak import synthesize_script
from voicereel.script.synthesis import OnError
from voicereel.settings import settings
from voicereel.text import composed

Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", help=".wav, .flac, .ogg or .mp3; - is a WAV file on standard output."
    ),
]


@takes_options
def say(
    output: Output,
    text: Annotated[
        str | None, typer.Argument(help="What to say; - reads it from standard input.")
    ] = None,
    text_file: Annotated[
        str | None, typer.Option(help="File of what to say, UTF-8; - is standard input.")
    ] = None,
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
    retries: Retries = 0,
    as_json: Json = False,
    **options: Unpack[Options],
) -> None:
    """Speak a text into an audio file; a long one in parts that end with its sentences."""
    with connected(url, protocol, timeout) as client, console.status("speaking") as status:
        if stream and retries:
            raise InvalidRequest("--retries with --stream: what was streamed cannot be taken back")
        words = given_text(text, text_file)
        if voice_text is not None:
            check_is_no_file(voice_text, '--voice-text "$(cat {})"')
        file = library().find(voice) if voice else None
        outputs = Outputs(output)
        speech = Speech(client, words, file, voice_text, options, retries)
        outputs.check(speech.text_bytes, read=[file, Path(text_file) if text_file else None])
        if stream:
            spoken = write_streamed(
                speech.chunks(),
                outputs,
                lambda audio_s, wall_s: status.update(_speed(audio_s, wall_s)),
            )
        else:
            spoken = write_whole(speech.whole, outputs)
    if spoken.finish_reason == "length":
        console.print("[yellow]cut off by max_new_tokens[/yellow]: allow more, or shorten the text")
    _report(spoken, outputs, as_json)


@takes_options
def script(
    file: Annotated[
        Path,
        typer.Argument(
            help=".json, .yaml, .srt, .vtt, or lines of SPEAKER: text; - is standard input."
        ),
    ],
    output: Output,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            help="SPEAKER=VOICE, where VOICE is the name of a kept voice or a .npz file. A speaker "
            "without this option has the kept voice of the same name."
        ),
    ] = None,
    captions: Annotated[Path | None, typer.Option(help=".srt, .vtt or .json")] = None,
    caption_chars: Annotated[
        int, typer.Option(help="Characters of a line of captions, at most.", min=8)
    ] = LINE_CHARACTERS,
    caption_lines: Annotated[
        int, typer.Option(help="Lines that captions show at a time, at most.", min=1)
    ] = CUE_LINES,
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
    retries: Retries = 0,
    together: Annotated[
        bool,
        typer.Option(help="All segments as one dialogue, each heard by the next: for S2 servers."),
    ] = False,
    as_json: Json = False,
    **options: Unpack[Options],
) -> None:
    """Speak a script of many speakers into one audio file, with captions."""
    with connected(url, protocol, timeout) as client:
        segments = _script_in(file)
        voices = _voices(segments, voice or [])
        outputs = Outputs(output, captions)
        pauses_s = sum(silence if (s := one.silence_after_s) is None else s for one in segments)
        text_bytes = sum(len(one.text.encode()) for one in segments)
        outputs.check(text_bytes, pauses_s, [file, *voices.values()])
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
                    retries=retries,
                    together=together,
                    progress=bar.advance_one,
                    **options,
                ),
                outputs,
                Layout(caption_chars, caption_lines),
            )
    for error in spoken.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(error)}", highlight=False, soft_wrap=True)
    _report(spoken, outputs, as_json)


def _script_in(file: Path) -> Script:
    if str(file) == STANDARD_INPUT:
        return parse_script_text(read_standard_input(), "standard input")
    return load_script(file)


def _report(spoken: Spoken, outputs: Outputs, as_json: bool) -> None:
    """Print warnings, and the result: on stderr where stdout holds the audio."""
    print_warnings(spoken.warnings)
    print_result(spoken.as_dict() if as_json else str(spoken), on_stderr=outputs.is_stdout)


def _voices(segments: Script, given: list[str]) -> dict[str, Path]:
    """The file of each speaker's voice: from `--voice`, else the kept voice of the same name."""
    kept = library()
    voices = {}
    for pair in given:
        speaker, _, name = pair.partition("=")
        if not (speaker and name):
            raise InvalidRequest(f"--voice is {pair!r}, expected SPEAKER=VOICE")
        voices[composed(speaker)] = kept.find(name)
    for speaker in dict.fromkeys(segment.speaker_id for segment in segments):
        if speaker not in voices:
            voices[speaker] = kept.named(speaker)
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
