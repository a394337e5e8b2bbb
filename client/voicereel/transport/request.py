"""Requests: which model a call goes to, and the tensors it sends.

The tensors are those of the server's contract: ensemble/contract/tensors.py of voicereel-triton.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording
from voicereel.errors import InvalidRequest
from voicereel.options import option_tensors
from voicereel.text import checked_text, require_words
from voicereel.transport.base import Tensors
from voicereel.voice import Voice, VoiceFeatures


def speech_request(
    text: str, voice: Voice | None, voice_text: str | None, options: Mapping[str, Any]
) -> tuple[str, Tensors]:
    """Name and inputs of the model that speaks a text; the streaming model is NAME_stream.

    Raises:
        InvalidRequest: If a text has no words or cannot be sent, voice_text is missing or
            superfluous, or voice or an option is unusable.
        TypeError: If there is no such option, or its value is of another type.
    """
    tensors = {"text": _texts(require_words(text, "text")), **option_tensors(options)}
    if isinstance(voice, str | os.PathLike) and Path(voice).suffix.lower() == ".npz":
        voice = VoiceFeatures.load(voice)
    if voice is None or isinstance(voice, VoiceFeatures):
        if voice_text is not None:
            raise InvalidRequest(
                "voice_text goes with a voice given as a recording; "
                + ("give voice=PATH too" if voice is None else "features hold their own words")
            )
        return "fish_tts", tensors | (features_tensors(voice) if voice else {})
    words = _texts(_words_of(voice, voice_text))  # checked before the recording is read
    return "fish_clone", tensors | recording_tensors(voice) | {"reference_text": words}


def with_text(inputs: Tensors, part: str, attempt: int = 0) -> Tensors:
    """The inputs for a part of the text; each further attempt has a seed of its own."""
    asked = inputs | {"text": _texts(part)}
    if attempt and "seed" in inputs:
        asked["seed"] = inputs["seed"] + np.uint64(attempt)  # wraps round
    return asked


def recording_tensors(path: str | os.PathLike[str], chunk_size_s: float | None = None) -> Tensors:
    """A recording as inputs of fish_encode and fish_clone.

    Args:
        path: The recording.
        chunk_size_s: Seconds to encode at a time; None leaves the choice to the server.
    """
    chunk = {} if chunk_size_s is None else {"chunk_size_s": np.array([[chunk_size_s]], np.float32)}
    return chunk | {
        "reference_audio": read_recording(path)[None],
        "reference_sample_rate": np.array([[CODEC_SAMPLE_RATE_HZ]], np.int32),
    }


def features_tensors(voice: VoiceFeatures) -> Tensors:
    """An encoded voice as inputs of fish_tts."""
    for text in (*voice.texts, voice.checkpoint_id):
        checked_text(text, "a text of the voice")
    return {
        "reference_text": _texts(*voice.texts),
        "reference_codes": voice.codes[None],
        "reference_frames": np.array([voice.frames], np.int32),
        "checkpoint_id": _texts(voice.checkpoint_id),
    }


def _words_of(voice: str | os.PathLike[str], voice_text: str | None) -> str:
    if voice_text is None:
        raise InvalidRequest(f"voice {voice} needs voice_text: the words spoken in the recording")
    return require_words(voice_text, "voice_text")


def _texts(*texts: str) -> np.ndarray:
    return np.array([[text.encode() for text in texts]], np.object_)
