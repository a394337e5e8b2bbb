"""`make demo`: a two-speaker script through a real server, with captions and a picture.

Everything is made when missing or outdated: a checkpoint, its export, then out/demo.{wav,srt,png}.
The last line on stdout is one JSON object; all else goes to stderr.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

import voicereel.captions
from benchmarks.prepared import ROOT, prepared, served
from benchmarks.report import console
from ensemble.contract.settings import server_settings
from launch import compiler
from launch.server import LaunchError
from voicereel import Audio, Client, ReelPiece, VoiceFeatures, VoiceReelError, stream_script

OUT, VOICES = ROOT / "out", ROOT / "assets" / "voices"
IN_FLIGHT = 4  # lines that are spoken together
MAX_FRAMES = 200  # 9 s: the limit of a line that does not end by itself

SEED = 3  # of several tried, the one whose six lines a recogniser hears word for word
WORDS = {  # spoken in the recordings, assets/voices/README.md
    "Alice": "Please bring me seven candles and some chocolate.",
    "Bob": "The train to Paris leaves at seven in the morning.",
}
SCRIPT = (  # sentences that the demo voice can say, training/sentences.txt
    ("Alice", "Good morning, Bob. Did you sleep well?"),
    ("Bob", "Good morning, Alice. Let us begin."),
    ("Alice", "Did the captain find the guitar last night?"),
    ("Bob", "Michael has studied for eleven hours without a sandwich."),
    ("Alice", "Once upon a time, a sleepy dolphin lived inside the library."),
    ("Bob", "Sunday will be foggy and freezing in the valley."),
)


@dataclass(frozen=True)
class Line:
    """A line of the script, spoken.

    Attributes:
        speaker: Name of the speaker.
        text: The line.
        audio: The line, spoken.
        ttfa_s: Seconds from the request for the script to the line's first audio, in order.
    """

    speaker: str
    text: str
    audio: Audio
    ttfa_s: float


@dataclass(frozen=True)
class Caption:
    """A line and its place: samples `start` to `end` of the whole."""

    speaker: str
    text: str
    start: int
    end: int


def main() -> None:
    """Make the demo; exits with 1 and a message if it cannot."""
    try:
        _, repository = prepared("demo", "demo")
        with (
            console.status("serving"),
            served(repository) as (_, client),
        ):
            lines, wall_s = speak(client)
    except (LaunchError, VoiceReelError, subprocess.CalledProcessError) as error:
        console.print(f"[red]demo:[/red] {error}", highlight=False)
        sys.exit(1)
    result = write(lines, wall_s)
    console.print(
        "A small voice, trained from nothing on synthetic speech (training/). "
        "For one that sounds human: make export CHECKPOINT=DIR",
        style="yellow",
    )
    say_if_slow("make demo")
    print(json.dumps(result))


def say_if_slow(command: str) -> None:
    """Say what a compiler would bring, where there is none, and the command to repeat then."""
    if slow := compiler.missing(server_settings()):
        console.print(f"Slow here: {slow}; {compiler.remedy(command)}", style="yellow")


def encoded(client: Client) -> dict[str, VoiceFeatures]:
    """The features of both speakers, made by the server from the committed recordings."""
    return {
        name: client.encode_voice(VOICES / f"{name.lower()}.flac", words)
        for name, words in WORDS.items()
    }


def speak(client: Client) -> tuple[list[Line], float]:
    """Speak the script, several lines at a time; returns the lines and the wall time in seconds."""
    voices = encoded(client)
    client.synthesize(SCRIPT[0][1], voices["Alice"], seed=0)  # untimed: the first call is slow
    script = [
        {"speaker_id": speaker, "text": text, "options": {"seed": SEED}} for speaker, text in SCRIPT
    ]
    begin = time.perf_counter()
    pieces = stream_script(client, script, voices, max_workers=IN_FLIGHT, max_new_tokens=MAX_FRAMES)
    return list(_lines(pieces, begin)), time.perf_counter() - begin


def _lines(pieces: Iterable[ReelPiece], begin: float) -> Iterator[Line]:
    waveforms, ttfa_s = [], 0.0
    for piece in pieces:
        ttfa_s = ttfa_s or time.perf_counter() - begin
        waveforms.append(piece.waveform)
        if piece.caption:
            speaker, text = piece.caption["speaker"], piece.caption["text"]
            audio = Audio(np.concatenate(waveforms), piece.sample_rate_hz, piece.finish_reason)
            console.print(f"{speaker}: {text} [dim]({audio.duration_s:.2f} s)", highlight=False)
            yield Line(speaker, text, audio, ttfa_s)
            waveforms, ttfa_s = [], 0.0


def captions_of(lines: Iterable[Line]) -> list[Caption]:
    """The place of each line when they are played one after the other."""
    captions, start = [], 0
    for line in lines:
        end = start + len(line.audio.waveform)
        captions.append(Caption(line.speaker, line.text, start, end))
        start = end
    return captions


def srt(captions: Iterable[Caption], sample_rate_hz: int) -> str:
    """Captions as a SubRip file, to the millisecond."""
    return voicereel.captions.srt(
        voicereel.Caption(
            start=c.start / sample_rate_hz,
            end=c.end / sample_rate_hz,
            speaker=c.speaker,
            text=c.text,
        )
        for c in captions
    )


def write(lines: list[Line], wall_s: float) -> dict[str, object]:
    """Write out/demo.{wav,srt,png}; returns what the last line on stdout says."""
    OUT.mkdir(exist_ok=True)
    sample_rate_hz = lines[0].audio.sample_rate_hz
    waveform = np.concatenate([line.audio.waveform for line in lines])
    captions = captions_of(lines)
    audio = Audio(waveform, sample_rate_hz, "stop")
    audio.save(OUT / "demo.wav")
    (OUT / "demo.srt").write_text(srt(captions, sample_rate_hz), encoding="utf-8")
    with console.status("drawing out/demo.png"):
        from benchmarks.demo.plot import plot  # matplotlib, which a user of WORDS may lack

        plot(waveform, sample_rate_hz, captions, OUT / "demo.png")
    return {
        "wav": "out/demo.wav",
        "captions": "out/demo.srt",
        "segments": len(lines),
        "speakers": len({line.speaker for line in lines}),
        "audio_s": audio.duration_s,
        "wall_s": wall_s,
        "rtf": wall_s / audio.duration_s,
        "ttfa_s": lines[0].ttfa_s,
    }
