"""Sentences that were never trained on, and three ways to say them.

espeak-ng says them as the training data does; the codec encodes and decodes that; a server
synthesises them from the text.
"""

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.sentences import sentences
from training.settings import Data
from training.speech import SAMPLE_RATE_HZ, Voice, at_44100_hz, speak
from voicereel import Audio, Client, Options, VoiceFeatures

_TEXT_SEED = 20  # the corpus is drawn with another one
_PITCH, _SPEED_WPM = 50, 155  # the middle of the ranges that were trained on
_MAX_FRAMES = 200  # 9 s; the longest sentence takes 5


@dataclass(frozen=True)
class Sentence:
    """A sentence to be spoken.

    Attributes:
        text: The sentence as it is written.
        variant: Voice variant of espeak-ng.
        true: float32 (samples,) at 44.1 kHz, as espeak-ng says it.
    """

    text: str
    variant: str
    true: np.ndarray


def voices() -> tuple[str, ...]:
    """Three voices that were trained on, and the one that was not."""
    return (*Data.variants[:3], Data.unseen)


def spoken(text: str, variant: str) -> np.ndarray:
    """A text as espeak-ng says it, float32 (samples,) at 44.1 kHz."""
    return at_44100_hz(speak(text, Voice(variant, _PITCH, _SPEED_WPM)))


def held_out_sentences(count: int, begin: int = 0, joined: int = 1) -> list[Sentence]:
    """So many texts, which take the voices in turns.

    Args:
        count: Texts.
        begin: Sentences to leave out before the first.
        joined: Sentences of each text.
    """
    drawn = islice(sentences(_TEXT_SEED, held_out=True), begin, begin + count * joined)
    texts = map(" ".join, zip(*[drawn] * joined, strict=True))
    chosen = [(text, voices()[i % len(voices())]) for i, text in enumerate(texts)]
    return [Sentence(text, variant, spoken(text, variant)) for text, variant in chosen]


@torch.inference_mode()
def through_codec(codec: Any, waveform: np.ndarray) -> np.ndarray:
    """A waveform, encoded and decoded by the genuine codec in float32."""
    codes, frames = codec.encode(torch.from_numpy(waveform)[None, None])
    audio, _ = codec.decode(codes, frames)
    return audio[0, 0, : len(waveform)].numpy()


def synthesised(
    url: str, references: list[Sentence], lines: list[Sentence], in_flight: int, streamed: bool
) -> list[Audio]:
    """All sentences through a server, `in_flight` at a time, each in its reference's voice."""
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


def _encoded(client: Client, line: Sentence) -> VoiceFeatures:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.wav"
        Audio(line.true, SAMPLE_RATE_HZ, "stop").save(path)
        return client.encode_voice(path, line.text)
