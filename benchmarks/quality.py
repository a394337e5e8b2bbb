"""`make quality`: are words and voice right? espeak-ng, the codec and full synthesis, compared.

Sentences that were never trained on, in four voices, one of them never trained on either. The
last line on stdout is one JSON object; all else goes to stderr.
"""

import json
import math
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.prepared import ROOT, export_command
from benchmarks.recogniser import Recogniser
from benchmarks.voice_measures import (
    cepstral_distance_db,
    median_f0_hz,
    mel_cepstra,
    word_errors,
)
from families.fish_s1.checkpoint import load_checkpoint, load_codec
from families.registry import CheckpointError
from launch.server import LaunchError, Server
from training.sentences import jsgf, read_rules, sentences, words
from training.settings import Data
from training.speech import SAMPLE_RATE_HZ, Voice, at_44100_hz, speak
from voicereel import Audio, Client, VoiceFeatures, VoiceReelError
from voicereel.request import Options

_TEXT_SEED = 20
_PITCH, _SPEED_WPM = 50, 155
_MAX_FRAMES = 200  # 9 s; the longest sentence takes 5
console = Console(stderr=True)


@dataclass(frozen=True)
class Line:
    """A sentence to be spoken.

    Attributes:
        text: As written.
        variant: Whose voice.
        true: float32 (samples,), as espeak-ng says it.
    """

    text: str
    variant: str
    true: np.ndarray


@dataclass(frozen=True)
class Measures:
    """Of one way to say all lines: word errors over words, and cepstral distances."""

    wer: float
    cepstral_db: float


def voices() -> tuple[str, ...]:
    """Three that were trained on, and the one that was not."""
    return (*Data.variants[:3], Data.unseen)


def spoken(text: str, variant: str) -> np.ndarray:
    """As espeak-ng says it, float32 (samples,) of 44.1 kHz."""
    return at_44100_hz(speak(text, Voice(variant, _PITCH, _SPEED_WPM)))


def held_out_lines(count: int) -> list[Line]:
    """Sentences in turns of the voices; the first of each voice is its reference."""
    texts = islice(sentences(_TEXT_SEED, held_out=True), count)
    chosen = [(text, voices()[i % len(voices())]) for i, text in enumerate(texts)]
    return [Line(text, variant, spoken(text, variant)) for text, variant in chosen]


@torch.inference_mode()
def through_codec(codec: Any, waveform: np.ndarray) -> np.ndarray:
    """Encoded and decoded by the genuine codec in float32."""
    codes, frames = codec.encode(torch.from_numpy(waveform)[None, None])
    audio, _ = codec.decode(codes, frames)
    return audio[0, 0, : len(waveform)].numpy()


def synthesised(
    url: str, references: list[Line], lines: list[Line], in_flight: int, streamed: bool
) -> list[Audio]:
    """All lines through a server, several at a time, each in the voice of its reference."""
    with Client(url) as client, ThreadPoolExecutor(in_flight) as pool:
        features = {line.variant: _encoded(client, line) for line in references}

        def say(number: int) -> Audio:
            line = lines[number]
            voice = features[line.variant]
            options = Options(seed=number, max_new_tokens=_MAX_FRAMES)
            if not streamed:
                return client.synthesize(line.text, voice, **options)
            chunks = list(client.stream(line.text, voice, **options))
            waveform = np.concatenate([c.waveform for c in chunks])
            return Audio(waveform, chunks[-1].sample_rate_hz, chunks[-1].finish_reason)

        return list(pool.map(say, range(len(lines))))


def _encoded(client: Client, line: Line) -> VoiceFeatures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.wav"
        Audio(line.true, SAMPLE_RATE_HZ, "stop").save(path)
        return client.encode_voice(path, line.text)


def measured(
    recogniser: Recogniser, lines: list[Line], waveforms: list[np.ndarray], shift: int = 0
) -> Measures:
    """Compare with the lines; `shift` compares the sound with that of other sentences."""
    errors = count = 0
    distances = []
    for number, (line, waveform) in enumerate(zip(lines, waveforms, strict=True)):
        true = words(line.text)
        errors += word_errors(true, recogniser.words(waveform, SAMPLE_RATE_HZ))
        count += len(true.split())
        # Of the same voice: the turns of the voices are kept.
        other = lines[(number + shift * len(voices())) % len(lines)].true
        pair = (mel_cepstra(w, SAMPLE_RATE_HZ) for w in (waveform, other))
        distances.append(cepstral_distance_db(*pair))
    return Measures(errors / count, float(np.mean(distances)))


def f0_errors(lines: list[Line], references: list[Line], made: list[np.ndarray]) -> dict:
    """Of each voice, how far its median pitch is from its reference's, as a share of that."""
    found = {}
    for reference in references:
        own = [m for m, line in zip(made, lines, strict=True) if line.variant == reference.variant]
        wanted, got = (
            median_f0_hz(w, SAMPLE_RATE_HZ) for w in (reference.true, np.concatenate(own))
        )
        # Without any voiced sound there is no pitch: as wrong as can be.
        found[reference.variant] = 1.0 if math.isnan(got) else abs(got / wanted - 1)
    return found


def exported(checkpoint: Path, compiled: bool, precision: str) -> Path:
    """Export a checkpoint, its codec compiled or not; for int8 the decoder also in 8 bits."""
    repository = ROOT / "build" / "quality-repository"
    how = ["--compile" if compiled else "--no-compile", *(["--int8"] * (precision == "int8"))]
    export_command("run", checkpoint, "--repository", repository, *how)
    return repository


def main(
    checkpoint: Annotated[Path, typer.Option(help="Fish-Speech checkpoint folder")],
    repository: Annotated[Path | None, typer.Option(help="The same, exported already")] = None,
    precision: Annotated[str, typer.Option(help="FISH_SPEECH_PRECISION")] = "half",
    sentences: Annotated[int, typer.Option(help="How many; the goals are for 100")] = 100,
    in_flight: Annotated[int, typer.Option(help="At a time: 1 is never batched")] = 4,
    streamed: Annotated[bool, typer.Option(help="Chunk by chunk")] = False,
    compiled: Annotated[bool, typer.Option(help="With the codec compiled")] = False,
    out: Annotated[Path, typer.Option(help="Folder for a picture and some sounds")] = ROOT / "out",
) -> None:
    """Measure and print; progress and the table go to stderr."""
    every = held_out_lines(sentences + len(voices()))
    references, lines = every[: len(voices())], every[len(voices()) :]
    recogniser = Recogniser(jsgf(read_rules()))
    folder = load_checkpoint(checkpoint)
    with console.status("codec"):
        codec = load_codec(folder)
        decoded = [through_codec(codec, line.true) for line in lines]
    with (
        console.status("serving"),
        Server(
            repository or exported(checkpoint, compiled, precision),
            environment={"FISH_SPEECH_PRECISION": precision},
        ) as server,
    ):
        audios = synthesised(server.grpc_url, references, lines, in_flight, streamed)
    made = [audio.waveform for audio in audios]
    with console.status("listening"):
        ways = {
            "espeak-ng": measured(recogniser, lines, [line.true for line in lines]),
            "codec": measured(recogniser, lines, decoded),
            "synthesis": measured(recogniser, lines, made),
            "wrong sentences": measured(recogniser, lines, [line.true for line in lines], shift=1),
        }
        pitches = f0_errors(lines, references, made)
    console.print(_table(ways, pitches))
    _save(out, lines, decoded, made)
    result = {
        "wer_ceiling": ways["espeak-ng"].wer,
        "wer_codec": ways["codec"].wer,
        "wer_tts": ways["synthesis"].wer,
        "stop_rate": float(np.mean([audio.finish_reason == "stop" for audio in audios])),
        "f0_error": max(pitches.values()),
        "cepstral_codec_db": ways["codec"].cepstral_db,
        "cepstral_tts_db": ways["synthesis"].cepstral_db,
        "cepstral_wrong_db": ways["wrong sentences"].cepstral_db,
        "sentences": sentences,
        "checkpoint": folder.checkpoint_id,
        "precision": precision,
    }
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


def _table(ways: dict[str, Measures], pitches: dict[str, float]) -> Table:
    heard = {name: f"{m.wer:.3f}" for name, m in ways.items()} | {"wrong sentences": "-"}
    table = Table("what", "word error rate", "mel-cepstral distance to espeak-ng, dB")
    for name, m in ways.items():
        table.add_row(name, heard[name], f"{m.cepstral_db:.2f}")
    told = ", ".join(f"{variant} {error:.0%}" for variant, error in pitches.items())
    table.caption = (
        f"Median pitch against the reference's: {told}; {Data.unseen} was not trained on"
    )
    return table


def _save(
    folder: Path, lines: list[Line], decoded: list[np.ndarray], made: list[np.ndarray]
) -> None:
    """Spectrograms of one sentence per voice, side by side, and what they show."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    count = min(len(lines), len(voices()))
    figure, axes = pyplot.subplots(count, 3, figsize=(15, 3 * count), squeeze=False, sharey=True)
    for number, line in enumerate(lines[:count]):
        ways = {"espeak-ng": line.true, "codec": decoded[number], "synthesis": made[number]}
        for axis, (way, waveform) in zip(axes[number], ways.items(), strict=True):
            axis.specgram(waveform + 1e-6, NFFT=1024, Fs=SAMPLE_RATE_HZ, noverlap=768, vmin=-150)
            axis.set(title=f"{way}, {line.variant}", ylim=(0, 8000))
            Audio(waveform, SAMPLE_RATE_HZ, "").save(folder / f"quality-{number}-{way}.wav")
        axes[number][0].set_ylabel(line.text[:40])
    figure.tight_layout()
    figure.savefig(folder / "quality.png", dpi=80)


if __name__ == "__main__":
    try:
        typer.run(main)
    except (CheckpointError, LaunchError, VoiceReelError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"quality: {error}") from None
