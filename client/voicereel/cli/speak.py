"""`voicereel say` and `voicereel script`."""

import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from voicereel.audio import check_suffix
from voicereel.cli.output import write_reel, write_streamed, write_whole
from voicereel.cli.session import (
    Json,
    Seed,
    Temperature,
    Timeout,
    Url,
    Via,
    connected,
    console,
    library,
    print_result,
)
from voicereel.errors import InvalidRequest
from voicereel.script.segment import Script, load_script
from voicereel.script.speak import synthesize_script
from voicereel.script.synthesis import OnError
from voicereel.settings import settings
from voicereel.transport.request import Options

Output = Annotated[Path, typer.Option("-o", "--output", help=".wav, .flac, .ogg or .mp3")]


def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    output: Output,
    voice: Annotated[
        str | None, typer.Option(help="Name of a voice added, its .npz, or a recording.")
    ] = None,
    voice_text: Annotated[str | None, typer.Option(help="The words of the recording.")] = None,
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    seed: Seed = None,
    temperature: Temperature = None,
    top_p: Annotated[float | None, typer.Option(help="Share of probability.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 avoids.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Frames at most.")] = None,
    first_chunk_frames: Annotated[int | None, typer.Option(help="First chunk's length.")] = None,
    max_chunk_frames: Annotated[int | None, typer.Option(help="Longest chunk.")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="Write audio as it comes.")] = False,
    as_json: Json = False,
) -> None:
    """Say a text, into an audio file."""
    options: Options = {
        "seed": seed,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
        "first_chunk_frames": first_chunk_frames,
        "max_chunk_frames": max_chunk_frames,
    }
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


def script(
    file: Annotated[Path, typer.Argument(help=".json, .yaml, or lines of SPEAKER: text")],
    output: Output,
    voice: Annotated[
        list[str] | None,
        typer.Option(help="SPEAKER=VOICE, a name or .npz; else the voice of the speaker's name."),
    ] = None,
    captions: Annotated[Path | None, typer.Option(help=".srt, .vtt or .json")] = None,
    url: Url = None,
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    seed: Seed = None,
    temperature: Temperature = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Frames a request at most.")] = None,
    silence: Annotated[float, typer.Option(help="Seconds between segments.", min=0, max=60)] = 0.0,
    workers: Annotated[
        int | None, typer.Option(help="In flight; VOICEREEL_MAX_WORKERS if left out.", min=1)
    ] = None,
    language: Annotated[str, typer.Option(help="ISO 639 code, for long texts.")] = "en",
    on_error: Annotated[OnError, typer.Option(help="skip leaves a gap and says so.")] = "raise",
    as_json: Json = False,
) -> None:
    """Speak a script of many speakers, into one audio file and its captions."""
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
                    progress=bar.told,
                    seed=seed,
                    temperature=temperature,
                    max_new_tokens=max_new_tokens,
                ),
                output,
                captions,
            )
    for error in spoken.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(error)}", highlight=False, soft_wrap=True)
    print_result(spoken.as_dict() if as_json else str(spoken))


def _voices(segments: Script, given: list[str]) -> dict[str, Path]:
    """The file of each speaker's voice; speakers that have none are left out, to be named later."""
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
    """Segments done, seconds of audio and real-time factor so far."""

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

    def told(self, _: int, audio_s: float) -> None:
        """One more segment is done."""
        with self._adding:
            self._audio_s += audio_s
            speed = _speed(self._audio_s, time.perf_counter() - self._begin)
        self.update(self._task, advance=1, speed=speed)


def _speed(audio_s: float, wall_s: float) -> str:
    return f"{audio_s:.1f} s of audio" + (f", RTF {wall_s / audio_s:.2f}" if audio_s else "")
