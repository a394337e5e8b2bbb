"""`make quality`: are words and voice right? espeak-ng, the codec and full synthesis, compared.

The sentences were never trained on, and of their four voices one was not either. The last line on
stdout is one JSON object; all else goes to stderr.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from benchmarks.prepared import ROOT, export_command, served
from benchmarks.quality.measures import Measures, f0_errors, measured
from benchmarks.quality.plot import save
from benchmarks.quality.recogniser import Recogniser
from benchmarks.quality.speech import (
    Sentence,
    held_out_sentences,
    synthesised,
    through_codec,
    voices,
)
from benchmarks.report import console
from ensemble.contract.settings import ROUNDINGS
from families.registry import CheckpointError, family_of
from launch.server import LaunchError
from training.sentences import jsgf, read_rules
from training.settings import Data
from voicereel import Audio, VoiceReelError


def exported(checkpoint: Path, kernels: bool, precision: str) -> Path:
    """Export a checkpoint, with its codec on kernels or without; in 8 bits where weights are."""
    repository = ROOT / "build" / "quality-repository"
    how = ["--compile" if kernels else "--no-compile", *(["--int8"] * (precision in ROUNDINGS))]
    export_command("run", checkpoint, "--repository", repository, *how)
    return repository


@dataclass(frozen=True)
class Spoken:
    """All sentences, said in three ways.

    Attributes:
        lines: The sentences, which hold espeak-ng's own sound.
        references: The sentence of each voice that its features are made from.
        decoded: espeak-ng's sound through the codec.
        audios: The synthesis.
        joined: Sentences of each text.
    """

    lines: list[Sentence]
    references: list[Sentence]
    decoded: list[np.ndarray]
    audios: list[Audio]
    joined: int

    @property
    def synthesised(self) -> list[np.ndarray]:
        """The waveforms of the synthesis."""
        return [audio.waveform for audio in self.audios]

    @property
    def stop_rate(self) -> float:
        """Share of the sentences that ended by themselves."""
        return float(np.mean([audio.finish_reason == "stop" for audio in self.audios]))

    def measured(self) -> dict[str, Measures]:
        """The measures of each way, and of comparing with wrong sentences."""
        grammar = jsgf(read_rules(), several=self.joined > 1)
        recogniser, true = Recogniser(grammar), [line.true for line in self.lines]
        return {
            "espeak-ng": measured(recogniser, self.lines, true),
            "codec": measured(recogniser, self.lines, self.decoded),
            "synthesis": measured(recogniser, self.lines, self.synthesised),
            "wrong sentences": measured(recogniser, self.lines, true, shift=1),
        }


def main(
    checkpoint: Annotated[Path, typer.Option(help="Fish-Speech checkpoint folder")],
    repository: Annotated[Path | None, typer.Option(help="The same, exported already")] = None,
    precision: Annotated[str, typer.Option(help="FISH_SPEECH_PRECISION")] = "half",
    sentences: Annotated[int, typer.Option(help="How many texts; the goals are for 100")] = 100,
    joined: Annotated[int, typer.Option(help="Sentences of each text", min=1)] = 1,
    in_flight: Annotated[int, typer.Option(help="At a time: 1 is never batched")] = 4,
    streamed: Annotated[bool, typer.Option(help="Chunk by chunk")] = False,
    compiled: Annotated[bool, typer.Option(help="With the codec on kernels")] = False,
    out: Annotated[Path, typer.Option(help="Folder for a picture and some sounds")] = ROOT / "out",
) -> None:
    """Measure and print; progress and the table go to stderr."""
    references = held_out_sentences(len(voices()))
    lines = held_out_sentences(sentences, len(voices()), joined)
    family = family_of(checkpoint)
    folder = family.load_checkpoint(checkpoint)
    with console.status("codec"):
        codec = family.load_codec(folder)
        decoded = [through_codec(codec, line.true) for line in lines]
    at = repository or exported(checkpoint, compiled, precision)
    with (
        console.status("serving"),
        served(at, {"FISH_SPEECH_PRECISION": precision}) as (server, _),
    ):
        audios = synthesised(server.grpc_url, references, lines, in_flight, streamed)
    spoken = Spoken(lines, references, decoded, audios, joined)
    with console.status("listening"):
        ways, pitches = spoken.measured(), f0_errors(lines, references, spoken.synthesised)
    console.print(_table(ways, pitches))
    save(out, lines, decoded, spoken.synthesised)
    figures = _figures(ways, pitches) | {"stop_rate": spoken.stop_rate}
    result = {name: round(value, 4) for name, value in figures.items()}
    about = {
        "sentences": sentences,
        "joined": joined,
        "checkpoint": folder.checkpoint_id,
        "precision": precision,
    }
    print(json.dumps(result | about))


def _figures(ways: dict[str, Measures], pitches: dict[str, float]) -> dict[str, float]:
    return {
        "wer_ceiling": ways["espeak-ng"].wer,
        "wer_codec": ways["codec"].wer,
        "wer_tts": ways["synthesis"].wer,
        "f0_error": max(pitches.values()),
        "cepstral_codec_db": ways["codec"].cepstral_db,
        "cepstral_tts_db": ways["synthesis"].cepstral_db,
        "cepstral_wrong_db": ways["wrong sentences"].cepstral_db,
    }


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


if __name__ == "__main__":
    try:
        typer.run(main)
    except (CheckpointError, LaunchError, VoiceReelError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"quality: {error}") from None
