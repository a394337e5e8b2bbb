"""Responses: tensors become audio and features, checked to be complete and in order."""

from collections.abc import Iterable, Iterator

import numpy as np

from voicereel.audio import Audio, AudioChunk
from voicereel.errors import Cancelled, DeadlineExceeded, ServerError
from voicereel.transport.base import Tensors
from voicereel.voice import VoiceFeatures


def audio_from(outputs: Tensors) -> Audio:
    """The audio in a response of fish_tts or fish_clone."""
    return Audio(
        waveform=_field(outputs, "audio").copy(),
        sample_rate_hz=_field(outputs, "sample_rate").item(),
        finish_reason=_field(outputs, "finish_reason").item().decode(),
    )


def chunk_from(outputs: Tensors) -> AudioChunk:
    """The chunk in a response of fish_tts_stream or fish_clone_stream, without its padding."""
    audio, num_samples = _field(outputs, "audio"), _field(outputs, "num_samples").item()
    finish_reason = _field(outputs, "finish_reason").item().decode()
    if finish_reason == "cancelled":
        raise Cancelled("the stream was cancelled")
    if finish_reason == "timeout":
        raise DeadlineExceeded("the stream was not complete within its timeout")
    if not 0 <= num_samples <= len(audio):
        raise ServerError(f"a chunk of {len(audio)} samples says that {num_samples} are valid")
    return AudioChunk(
        waveform=audio[:num_samples].copy(),
        index=_field(outputs, "chunk_index").item(),
        is_last=_field(outputs, "is_last").item(),
        sample_rate_hz=_field(outputs, "sample_rate").item(),
        finish_reason=finish_reason,
    )


def features_from(outputs: Tensors, text: str) -> VoiceFeatures:
    """The features in a response of fish_encode, without its padding; text: the words spoken."""
    frames = _field(outputs, "reference_frames").item()
    checkpoint_id = _field(outputs, "checkpoint_id").item().decode()
    codes = _field(outputs, "codes")[:, :frames].copy()
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


def _field(outputs: Tensors, name: str) -> np.ndarray:
    """An output of a response, without its batch axis."""
    if name not in outputs:
        raise ServerError(f"the response has no {name}: are client and server of one version?")
    return outputs[name][0]
