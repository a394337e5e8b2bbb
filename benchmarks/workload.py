"""The brief's workload: 15 segments of two speakers, 30 s of audio, references of 10 s."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.demo import run as demo
from voicereel import Audio, Client, VoiceFeatures
from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording

# Frames of each segment: 15 x 43 x 2048 samples are 30 s. The checkpoint must be an endless one
# (`make-checkpoint --endless`), or segments end earlier.
FRAMES = 43
REFERENCE_S = 10.0
AS_IT_IS = "as it is"  # upstream, in results
SHORT_CACHE = 2304  # positions: the shortest cache that prompt and answer of a request fit into
SPEAKERS = {name.lower(): words for name, words in demo.WORDS.items()}
TEXTS = (
    "Good morning, and welcome back to the show.",
    "Thank you, it is good to be here again.",
    "Today we want to talk about voices, real and made.",
    "A subject close to my heart, as you know.",
    "Tell us, how does a machine learn to speak?",
    "It listens for a long time, much as we do.",
    "And then it simply begins to talk?",
    "Then it guesses, a little better every day.",
    "That sounds like my first year of piano.",
    "The neighbours were very patient, I hope.",
    "They moved away, but they sent a postcard.",
    "So what will you play for us this morning?",
    "A short piece that nobody has heard before.",
    "We are all ears, please go ahead.",
    "Here it comes, thirty seconds of it.",
)


def short_cache_name(positions: int = SHORT_CACHE) -> str:
    """How results call upstream with its cache cut to so many positions."""
    return f"cache {positions}"


@dataclass(frozen=True)
class Recording:
    """A voice's recording, and the words spoken in it."""

    path: Path
    words: str


def script(segments: int = len(TEXTS)) -> list[dict[str, str]]:
    """So many segments, as `synthesize_script` takes them; the texts repeat after the 15th."""
    names = list(SPEAKERS)
    once = [{"speaker_id": names[i % 2], "text": text} for i, text in enumerate(TEXTS)]
    return [once[i % len(once)] for i in range(segments)]


def recordings(folder: Path, variant: int = 0) -> dict[str, Recording]:
    """Write references of 10 s: the committed recordings, repeated.

    Args:
        folder: Where to write them.
        variant: Samples to leave out at the beginning. Each number gives the same voice in a
            recording that no cache knows yet.
    """
    found = {}
    for name, words in SPEAKERS.items():
        waveform = read_recording(demo.VOICES / f"{name}.flac")
        samples = round(REFERENCE_S * CODEC_SAMPLE_RATE_HZ)
        repeats = -(-samples // len(waveform))
        path = folder / f"{name}-{variant}.flac"
        whole = np.tile(waveform, repeats)[variant:samples]
        Audio(whole, CODEC_SAMPLE_RATE_HZ, "stop").save(path)
        found[name] = Recording(path, " ".join([words] * repeats))
    return found


def encoded(client: Client, variant: int = 0) -> dict[str, VoiceFeatures]:
    """The features of both speakers, made by the server."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            name: client.encode_voice(recording.path, recording.words)
            for name, recording in recordings(Path(folder), variant).items()
        }
