"""Speech to learn from, spoken by eSpeak NG; nothing is downloaded and nobody was recorded."""

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
SAMPLE_RATE_HZ = 44100
_PEAK = 0.7
_SILENCE = 0.004  # of full scale
_BEFORE_S, _AFTER_S = 0.03, 0.12  # kept around the words


@dataclass(frozen=True)
class Voice:
    """Attributes:
    variant: Of eSpeak NG, as in `espeak-ng -v`.
    pitch: 0 to 99; 50 is the variant's own.
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
    """Let eSpeak NG say it.

    Returns:
        int16 (samples,), 22.05 kHz, peak 0.7, silence around it cut.

    Raises:
        EspeakMissingError: If it is not installed.
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
    """int16 (samples,) of 22.05 kHz -> float32 (2 * samples,)."""
    return soxr.resample(spoken.astype(np.float32) / 32768, ESPEAK_RATE_HZ, SAMPLE_RATE_HZ)


class Corpus:
    """Every utterance that was made.

    Attributes:
        utterances: In the order in which they were spoken.
        samples: int16 (samples,), 22.05 kHz, of all of them, mapped into memory.
    """

    def __init__(self, folder: Path) -> None:
        entries = json.loads((folder / "speech.json").read_text(encoding="utf-8"))
        self.utterances = [
            Utterance(entry["text"], Voice(**entry["voice"]), entry["start"], entry["length"])
            for entry in entries
        ]
        self.samples = np.memmap(folder / "speech.i16", np.int16, "c")  # c: as torch asks

    def spoken(self, utterance: Utterance) -> np.ndarray:
        """float32, 22.05 kHz, full scale 1: as eSpeak NG spoke it."""
        spoken = self.samples[utterance.start : utterance.start + utterance.length]
        return spoken.astype(np.float32) / 32768


def draw_voices(settings: Data, seed: int) -> list[Voice]:
    """The voices trained on: variants in turn, pitch and speed by chance."""
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
    """Speak everything, unless it was spoken before."""
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
            # Forked: nobody needs to import torch to speak.
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
