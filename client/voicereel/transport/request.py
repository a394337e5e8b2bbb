"""What a caller asks -> the model to ask and the tensors to send.

The tensors are those of the server's contract: ensemble/contract/tensors.py of voicereel-triton.
"""

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypedDict

import numpy as np

from voicereel.audio import CODEC_SAMPLE_RATE_HZ, read_recording
from voicereel.errors import InvalidRequest
from voicereel.voice import VoiceFeatures

Voice: TypeAlias = str | os.PathLike[str] | VoiceFeatures
Tensors: TypeAlias = dict[str, np.ndarray]


class Options(TypedDict, total=False):
    """How to speak; what is left out or None is the server's default.

    Attributes:
        seed: The same request with the same seed gives the same audio; drawn anew if left out.
        temperature: How freely to vary; 0 always takes the likeliest.
        top_p: Share of the probability to draw from.
        repetition_penalty: Above 1 avoids what was just said.
        max_new_tokens: Frames of audio at most, 21.5 of them a second.
        first_chunk_frames: Length of the first streamed chunk; shorter is heard sooner.
        max_chunk_frames: Chunks double up to this length; left out, where playing allows it.
    """

    seed: int | None
    temperature: float | None
    top_p: float | None
    repetition_penalty: float | None
    max_new_tokens: int | None
    first_chunk_frames: int | None
    max_chunk_frames: int | None


OPTION_DTYPES = {
    "seed": np.uint64,
    "temperature": np.float32,
    "top_p": np.float32,
    "repetition_penalty": np.float32,
    "max_new_tokens": np.int32,
    "first_chunk_frames": np.int32,
    "max_chunk_frames": np.int32,
}


def speech_request(
    text: str, voice: Voice | None, voice_text: str | None, options: Mapping[str, Any]
) -> tuple[str, Tensors]:
    """Name and inputs of the model that speaks this; its streaming twin is NAME_stream.

    Raises:
        InvalidRequest: If voice and voice_text do not fit together, or the voice is unusable.
        TypeError: If there is no such option, or its value is of another type.
    """
    tensors = {"text": _texts(text), **option_tensors(options)}
    if isinstance(voice, str | os.PathLike) and Path(voice).suffix.lower() == ".npz":
        voice = VoiceFeatures.load(voice)
    if voice is None or isinstance(voice, VoiceFeatures):
        if voice_text is not None:
            raise InvalidRequest(
                "voice_text goes with a voice given as a recording; "
                + ("give voice=PATH too" if voice is None else "features hold their own words")
            )
        return "fish_tts", tensors | (features_tensors(voice) if voice else {})
    return "fish_clone", tensors | recording_tensors(voice) | {
        "reference_text": _texts(_words_of(voice, voice_text))
    }


def recording_tensors(path: str | os.PathLike[str], chunk_size_s: float | None = None) -> Tensors:
    """A recording as fish_encode and fish_clone take it.

    Args:
        path: Of the recording.
        chunk_size_s: To encode at a time; None leaves it to the server.
    """
    chunk = {} if chunk_size_s is None else {"chunk_size_s": np.array([[chunk_size_s]], np.float32)}
    return chunk | {
        "reference_audio": read_recording(path)[None],
        "reference_sample_rate": np.array([[CODEC_SAMPLE_RATE_HZ]], np.int32),
    }


def features_tensors(voice: VoiceFeatures) -> Tensors:
    """An encoded voice as fish_tts takes it."""
    return {
        "reference_text": _texts(*voice.texts),
        "reference_codes": voice.codes[None],
        "reference_frames": np.array([voice.frames], np.int32),
        "checkpoint_id": _texts(voice.checkpoint_id),
    }


def option_tensors(options: Mapping[str, Any]) -> Tensors:
    """Options that were given, in the contract's types; the server checks their ranges.

    Raises:
        TypeError: If there is no such option, or its value is of another type.
        InvalidRequest: If a whole number does not even fit its type.
    """
    unknown = options.keys() - OPTION_DTYPES.keys()
    if unknown:
        raise TypeError(
            f"no option {', '.join(sorted(unknown))}; there are {', '.join(OPTION_DTYPES)}"
        )
    given = {name: value for name, value in options.items() if value is not None}
    return {name: np.array([[_number(name, given[name])]], OPTION_DTYPES[name]) for name in given}


def _number(name: str, value: Any) -> int | float:
    dtype = OPTION_DTYPES[name]
    if dtype is np.float32:
        return float(value)
    whole, limits = operator.index(value), np.iinfo(dtype)
    if not limits.min <= whole <= limits.max:
        raise InvalidRequest(f"{name} is {whole}, expected {limits.min} to {limits.max}")
    return whole


def _words_of(voice: str | os.PathLike[str], voice_text: str | None) -> str:
    if voice_text is None:
        raise InvalidRequest(f"voice {voice} needs voice_text: the words spoken in the recording")
    return voice_text


def _texts(*texts: str) -> np.ndarray:
    return np.array([[text.encode() for text in texts]], np.object_)
