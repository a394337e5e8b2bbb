"""Responses: tensors become audio and features, checked to be complete and in order."""

from collections.abc import Iterable, Iterator

import numpy as np

from voicereel.audio import RATES_HZ, Audio, AudioChunk
from voicereel.errors import Cancelled, DeadlineExceeded, ServerError
from voicereel.transport.base import Tensors
from voicereel.voice import VoiceFeatures

_MOST_CODES = 2**20  # of a codebook; S2's semantic one has 4096
_MOST_EARLY = 256  # chunks that may be waiting for one before them; decoders are a few
_LONGEST_WORD = 256  # characters of a finish reason or an id
_KINDS = {"f": "float32", "i": "int64", "u": "uint", "b": "bool", "O": "text"}


def audio_from(outputs: Tensors) -> Audio:
    """The audio in a response of fish_tts or fish_clone."""
    return Audio(
        waveform=_finite(_field(outputs, "audio", "f")),
        sample_rate_hz=_rate_hz(outputs),
        finish_reason=_word(outputs, "finish_reason"),
    )


def chunk_from(outputs: Tensors) -> AudioChunk:
    """The chunk in a response of fish_tts_stream or fish_clone_stream, without its padding."""
    audio, num_samples = _field(outputs, "audio", "f"), _number(outputs, "num_samples")
    finish_reason = _word(outputs, "finish_reason")
    if finish_reason == "cancelled":
        raise Cancelled("the stream was cancelled")
    if finish_reason == "timeout":
        raise DeadlineExceeded("the stream was not complete within its timeout")
    if not 0 <= num_samples <= len(audio):
        raise ServerError(f"a chunk of {len(audio)} samples says that {num_samples} are valid")
    return AudioChunk(
        waveform=_finite(audio[:num_samples]),
        index=_number(outputs, "chunk_index"),
        is_last=bool(_number(outputs, "is_last", "b")),
        sample_rate_hz=_rate_hz(outputs),
        finish_reason=finish_reason,
    )


def features_from(outputs: Tensors, text: str) -> VoiceFeatures:
    """The features in a response of fish_encode, without its padding; text: the words spoken."""
    frames = _number(outputs, "reference_frames")
    checkpoint_id = _word(outputs, "checkpoint_id")
    codes = _field(outputs, "codes", "i", dimensions=2)
    if not 0 < frames <= codes.shape[1] or not 0 <= codes.min() <= codes.max() < _MOST_CODES:
        raise ServerError(
            f"codes {codes.shape} with {frames} valid frames, expected (codebooks, frames) with as "
            f"many frames or more, and values of 0 to {_MOST_CODES - 1}"
        )
    codes = codes[:, :frames].astype(np.int64)
    return VoiceFeatures(codes, (frames,), (text,), checkpoint_id)


def in_order(chunks: Iterable[AudioChunk]) -> Iterator[AudioChunk]:
    """Yield chunks sorted by index; the server's decoders may finish them in another order.

    Raises:
        ServerError: If the last chunk or another is missing, or one arrives twice.
    """
    early: dict[int, AudioChunk] = {}
    index, complete = 0, False
    for chunk in chunks:
        if complete or chunk.index < index or chunk.index in early:
            raise ServerError(f"chunk {chunk.index} came twice, or after the last one")
        if len(early) >= _MOST_EARLY:
            raise ServerError(f"chunk {index} is missing, and {len(early)} after it have come")
        early[chunk.index] = chunk
        while index in early:
            ready = early.pop(index)
            index, complete = index + 1, ready.is_last
            yield ready
    if early or not complete:
        raise ServerError(
            f"the stream ended after {index} chunks, before its last one: the audio is incomplete. "
            "The server's log may say why."
        )


def _field(outputs: Tensors, name: str, kinds: str, dimensions: int = 1) -> np.ndarray:
    """An output of a response, without its batch axis.

    Args:
        outputs: The response.
        name: Of the output.
        kinds: What NumPy calls the kinds of dtype that it may have.
        dimensions: How many it has without the batch axis.

    Raises:
        ServerError: If it is missing, or is something else.
    """
    if name not in outputs:
        raise ServerError(f"the response has no {name}: are client and server of one version?")
    found = outputs[name]
    is_fit = found.ndim == dimensions + 1 and len(found) == 1
    if not is_fit or found.dtype.kind not in kinds or (dimensions > 1 and not found.size):
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        shape = ", ".join(["1", *["n"] * dimensions])
        raise ServerError(
            f"the response's {name} is {found.dtype} {found.shape}, expected {expected} ({shape})"
        )
    return found[0]


def _number(outputs: Tensors, name: str, kinds: str = "iu") -> int:
    values = _field(outputs, name, kinds)
    if len(values) != 1:
        raise ServerError(f"the response's {name} has {len(values)} values, expected one")
    return values.item()


def _word(outputs: Tensors, name: str) -> str:
    values = _field(outputs, name, "O")
    try:
        (word,) = values
        text = word.decode()
    except (ValueError, AttributeError):
        raise ServerError(f"the response's {name} is no text, expected one in UTF-8") from None
    if len(text) > _LONGEST_WORD:
        raise ServerError(f"the response's {name} has {len(text)} characters, expected a word")
    return text


def _rate_hz(outputs: Tensors) -> int:
    rate_hz = _number(outputs, "sample_rate")
    if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
        raise ServerError(
            f"the response's sample_rate is {rate_hz}, expected {RATES_HZ[0]} to {RATES_HZ[1]} Hz"
        )
    return rate_hz


def _finite(audio: np.ndarray) -> np.ndarray:
    if audio.dtype != np.float32 or not np.isfinite(audio).all():
        raise ServerError(f"the response's audio is {audio.dtype} or holds NaN or infinity, "
                          "expected float32 samples in [-1, 1]")  # fmt: skip
    return audio.copy()
