"""The command line: say a text or a script, encode a voice, ask whether the server is ready.

Exit codes: 0 done; 1 the server failed or the request was cancelled; 2 usage or an invalid
request; 3 no server; 4 overloaded or out of time, worth another try; 130 interrupted.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from voicereel.audio import check_suffix
from voicereel.client import Client, Protocol
from voicereel.errors import (
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    ServerUnavailable,
    VoiceReelError,
)
from voicereel.reel import OnError, synthesize_script
from voicereel.request import Options
from voicereel.script import load_script
from voicereel.spoken import write_reel, write_streamed, write_whole

app = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)
voice_app = typer.Typer(help="Voices, encoded once and used for many texts.", no_args_is_help=True)
app.add_typer(voice_app, name="voice")
console = Console(stderr=True)  # stdout is for results

_EXIT_CODES = {InvalidRequest: 2, ServerUnavailable: 3, Overloaded: 4, DeadlineExceeded: 4}

Url = Annotated[str, typer.Option(help="HOST:PORT of the server.", envvar="VOICEREEL_URL")]
Via = Annotated[Protocol, typer.Option("--protocol", help="grpc: port 8001; http: port 8000.")]
Timeout = Annotated[float, typer.Option(help="Seconds for the whole answer.", min=0.001)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command()
def say(
    text: Annotated[str, typer.Argument(help="What to say.")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".wav, .flac, .ogg or .mp3")],
    voice: Annotated[Path | None, typer.Option(help="Recording, or .npz of voice encode.")] = None,
    voice_text: Annotated[str | None, typer.Option(help="The words of the recording.")] = None,
    url: Url = "127.0.0.1:8001",
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same audio.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest.")] = None,
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
    with _client(url, protocol, timeout) as client, console.status("speaking") as status:
        check_suffix(output)
        if stream:
            chunks = client.stream(text, voice, voice_text=voice_text, **options)
            spoken = write_streamed(
                chunks,
                output,
                lambda audio_s, wall_s: status.update(
                    f"{audio_s:.1f} s of audio, RTF {wall_s / audio_s:.2f}"
                ),
            )
        else:
            spoken = write_whole(
                lambda: client.synthesize(text, voice, voice_text=voice_text, **options), output
            )
    if spoken.finish_reason == "length":
        console.print("[yellow]cut off by max_new_tokens[/yellow]")
    _print(spoken.as_dict() if as_json else str(spoken))


@app.command()
def script(
    file: Annotated[Path, typer.Argument(help=".json, .yaml, or lines of SPEAKER: text")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".wav, .flac, .ogg or .mp3")],
    voice: Annotated[list[str], typer.Option(help="SPEAKER=VOICE.npz, for every speaker.")],
    captions: Annotated[Path | None, typer.Option(help=".srt, .vtt or .json")] = None,
    url: Url = "127.0.0.1:8001",
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same audio.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Frames a segment at most.")] = None,
    silence: Annotated[float, typer.Option(help="Seconds between segments.", min=0, max=60)] = 0.0,
    workers: Annotated[int, typer.Option(help="Segments in flight.", min=1)] = 4,
    on_error: Annotated[OnError, typer.Option(help="skip leaves a gap and says so.")] = "raise",
    as_json: Json = False,
) -> None:
    """Speak a script of many speakers, into one audio file and its captions."""
    with _client(url, protocol, timeout) as client, Progress(console=console) as bar:
        segments, voices = load_script(file), dict(map(_speaker_and_voice, voice))
        task = bar.add_task("speaking", total=len(segments))
        spoken = write_reel(
            lambda: synthesize_script(
                client,
                segments,
                voices,
                max_workers=workers,
                on_error=on_error,
                silence_s=silence,
                progress=lambda *_: bar.advance(task),
                seed=seed,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
            ),
            output,
            captions,
        )
    for error in spoken.skipped:
        console.print(f"[yellow]skipped[/yellow] {escape(error)}", highlight=False, soft_wrap=True)
    _print(spoken.as_dict() if as_json else str(spoken))


@voice_app.command()
def encode(
    recording: Annotated[Path, typer.Argument(help="Recording of the voice, 5 to 30 s.")],
    text: Annotated[str, typer.Option(help="The words spoken in it.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The voice file, .npz")],
    url: Url = "127.0.0.1:8001",
    protocol: Via = "grpc",
    timeout: Timeout = 300.0,
    as_json: Json = False,
) -> None:
    """Encode a recording, once, into a voice file for say --voice."""
    with _client(url, protocol, timeout) as client:
        voice = client.encode_voice(recording, text)
        try:
            voice.save(output)
        except OSError as error:
            raise InvalidRequest(f"cannot write {output}: {error.strerror}") from None
    codebooks, frames = voice.codes.shape
    result = {
        "file": str(output),
        "codebooks": codebooks,
        "frames": frames,
        "checkpoint_id": voice.checkpoint_id,
        "sha256": voice.sha256,
    }
    _print(result if as_json else f"{output}: {codebooks} codebooks x {frames} frames")


@app.command()
def ready(url: Url = "127.0.0.1:8001", protocol: Via = "grpc", as_json: Json = False) -> None:
    """Exit with 0 if the server and all its front doors are ready, else with 3."""
    with _client(url, protocol) as client:
        health = client.health()
    lines = [f"{name}: {'ready' if up else 'not ready'}" for name, up in health.items()]
    _print(health if as_json else "\n".join(lines))
    if not all(health.values()):
        raise typer.Exit(_EXIT_CODES[ServerUnavailable])


@contextmanager
def _client(url: str, protocol: Protocol, timeout_s: float = 300.0) -> Iterator[Client]:
    """A client whose errors become a message on stderr and an exit code."""
    try:
        with Client(url, protocol, timeout_s) as client:
            yield client
    except VoiceReelError as error:
        console.print(
            f"[red]{type(error).__name__}[/red]: {escape(str(error))}",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(_EXIT_CODES.get(type(error), 1)) from None


def _speaker_and_voice(given: str) -> tuple[str, str]:
    speaker, _, path = given.partition("=")
    if not (speaker and path):
        raise InvalidRequest(f"--voice is {given!r}, expected SPEAKER=VOICE.npz")
    return speaker, path


def _print(result: Mapping[str, object] | str) -> None:
    typer.echo(result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
