"""The corpus, spoken by espeak-ng: nothing is downloaded, and no person was recorded."""

import io
import json
import os
import random
import shutil
import subprocess
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import soundfile
import soxr
from rich.progress import track

from training.sentences import sentences
from training.settings import Data

ESPEAK_RATE_HZ = 22050
SAMPLE_RATE_HZ = 44100  # of the codec
_PEAK = 0.7  # of full scale, for every utterance
_SILENCE = 0.004  # of full scale; quieter samples are cut at both ends
_BEFORE_S, _AFTER_S = 0.03, 0.12  # seconds that are kept around the words


@dataclass(frozen=True)
class Voice:
    """Attributes:
    variant: Voice variant, as in `espeak-ng -v`.
    pitch: From 0 to 99; 50 is the variant's own.
    speed: Words per minute.
    """

    variant: str
    pitch: int
    speed: int


@dataclass(frozen=True)
class Utterance:
    """One sentence of the corpus: samples `start` to `start + length` of its file."""

    text: str
    voice: Voice
    start: int
    length: int


class EspeakMissingError(RuntimeError):
    """espeak-ng is not installed."""


def speak(text: str, voice: Voice) -> np.ndarray:
    """Speak a text with espeak-ng.

    Returns:
        int16 (samples,), 22.05 kHz, peak 0.7, silence at both ends cut.

    Raises:
        EspeakMissingError: If espeak-ng is not installed.
    """
    if not shutil.which("espeak-ng"):
        raise EspeakMissingError("espeak-ng is missing. As root: apt-get install -y espeak-ng")
    command = ["espeak-ng", "-v", voice.variant, "-p", str(voice.pitch), "-s", str(voice.speed)]
    spoken = subprocess.run([*command, "--stdout", text], check=True, capture_output=True).stdout
    waveform, rate = soundfile.read(io.BytesIO(spoken), dtype="float32")
    if rate != ESPEAK_RATE_HZ:
        raise ValueError(f"espeak-ng: spoke at {rate} Hz, expected {ESPEAK_RATE_HZ}")
    waveform *= _PEAK / np.abs(waveform).max()
    heard = np.flatnonzero(np.abs(waveform) > _SILENCE)
    begin = max(0, int(heard[0] - _BEFORE_S * rate))
    waveform = waveform[begin : int(heard[-1] + _AFTER_S * rate)]
    return (waveform * 32767).astype(np.int16)


def at_44100_hz(spoken: np.ndarray) -> np.ndarray:
    """Resample int16 (samples,) at 22.05 kHz to float32 (2 * samples,) at 44.1 kHz."""
    return soxr.resample(spoken.astype(np.float32) / 32768, ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)


class Corpus:
    """All utterances, and their sound.

    Attributes:
        utterances: In the order of the file.
        samples: int16 (samples,) at 22.05 kHz, of all utterances, mapped into memory.
    """

    def __init__(self, folder: Path) -> None:
        entries = json.loads((folder / "speech.json").read_text(encoding="utf-8"))
        self.utterances = [
            Utterance(entry["text"], Voice(**entry["voice"]), entry["start"], entry["length"])
            for entry in entries
        ]
        self.samples = np.memmap(
            folder / "speech.i16", np.int16, "c"
        )  # copy on write: torch refuses read-only memory

    def spoken(self, utterance: Utterance) -> np.ndarray:
        """Sound of an utterance, float32 (samples,) at 22.05 kHz, in [-1, 1]."""
        spoken = self.samples[utterance.start : utterance.start + utterance.length]
        return spoken.astype(np.float32) / 32768


def draw_voices(settings: Data, seed: int) -> list[Voice]:
    """The voices to train on: variants in turn, pitch and speed drawn at random."""
    chance = random.Random(seed)
    return [
        Voice(
            settings.variants[i % len(settings.variants)],
            chance.randint(*settings.pitch),
            chance.randint(*settings.speed_wpm),
        )
        for i in range(settings.voices)
    ]


def make_corpus(settings: Data, folder: Path) -> Corpus:
    """Speak the corpus into a folder, unless the folder has it."""
    if not (folder / "speech.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        texts = sentences(settings.seed, held_out=False)
        lines = [
            (text, voice)
            for voice in draw_voices(settings, settings.seed)
            for text in islice(texts, settings.utterances_per_voice)
        ]
        entries, start = [], 0
        cores = len(os.sched_getaffinity(0))
        with (
            (folder / "speech.i16").open("wb") as file,
            # Forked, since speaking needs no import of torch.
            ProcessPoolExecutor(cores, get_context("fork")) as pool,
        ):
            spoken = pool.map(speak, *zip(*lines, strict=True), chunksize=16)
            told = track(spoken, "speech", len(lines))
            for (text, voice), waveform in zip(lines, told, strict=True):
                file.write(waveform.tobytes())
                entries.append(asdict(Utterance(text, voice, start, len(waveform))))
                start += len(waveform)
        unfinished = folder / "speech.json.part"
        unfinished.write_text(json.dumps(entries), encoding="utf-8")
        unfinished.replace(folder / "speech.json")
    return Corpus(folder)
