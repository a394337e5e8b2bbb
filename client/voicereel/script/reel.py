"""What is heard of a script -> pieces with captions, and the whole."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from voicereel.audio import CODEC_SAMPLE_RATE_HZ, Audio, AudioChunk
from voicereel.captions import Caption
from voicereel.errors import ServerError, VoiceReelError
from voicereel.script.requests import SegmentRequest
from voicereel.script.workers import Sound

SKIPPED_GAP_S = 1.0  # silence in place of a segment that failed: long enough to be noticed


class Reel(NamedTuple):
    """A script, spoken.

    Attributes:
        audio: The whole; its finish_reason is "length" if any segment was cut off.
        captions: One for each segment, in order.
    """

    audio: Audio
    captions: list[Caption]


@dataclass(frozen=True, eq=False)
class ReelPiece:
    """A piece of a reel as it is streamed; the pieces join without a seam.

    Attributes:
        segment: Number of the segment, from 0.
        waveform: float32 (samples,), mono, in [-1, 1]; may be empty.
        sample_rate_hz: Samples per second.
        caption: With the last piece of a segment, which is the silence after it; None before.
        finish_reason: As in `Audio` with that piece, "" before and if it was skipped.
        error: Why it was skipped.
    """

    segment: int
    waveform: np.ndarray
    sample_rate_hz: int
    caption: Caption | None = None
    finish_reason: str = ""
    error: VoiceReelError | None = None


def captioned(
    requests: list[SegmentRequest], heard: Iterable[tuple[int, Sound | VoiceReelError | None]]
) -> Generator[ReelPiece]:
    """What is heard, and after every segment a piece of silence with its caption.

    Args:
        requests: The segments.
        heard: Of `heard_in_order`.

    Raises:
        ServerError: If segments come with different sample rates.
    """
    # The codec's, should the first segments fail; another one is refused when it is heard.
    rate_hz, known = CODEC_SAMPLE_RATE_HZ, False
    start = position = 0  # samples
    finish_reason = ""
    for number, sound in heard:
        request = requests[number]
        if isinstance(sound, Audio | AudioChunk):
            if sound.sample_rate_hz != rate_hz and (known or position):
                raise ServerError(
                    f"{request.name} came with {sound.sample_rate_hz} Hz, expected {rate_hz} Hz "
                    "as before: are there servers of two checkpoints behind one address?"
                )
            rate_hz, known = sound.sample_rate_hz, True
            if finish_reason in ("", "stop"):  # a long one is cut off if any part of it is
                finish_reason = sound.finish_reason
            position += len(sound.waveform)
            yield ReelPiece(number, sound.waveform, rate_hz)
            continue
        gap = round(SKIPPED_GAP_S * rate_hz) if sound else 0
        silence = gap + round(request.silence_after_s * rate_hz)
        caption = _caption(request, start / rate_hz, (position + gap) / rate_hz, sound)
        start = position = position + silence
        finished, finish_reason = "" if sound else finish_reason, ""
        yield ReelPiece(number, np.zeros(silence, np.float32), rate_hz, caption, finished, sound)


def _caption(
    request: SegmentRequest, start: float, end: float, error: VoiceReelError | None
) -> Caption:
    if error is None:
        return Caption(start=start, end=end, speaker=request.speaker, text=request.text)
    text = f"[not spoken: {type(error).__name__}] {request.text}"
    return Caption(start=start, end=end, speaker=request.speaker, text=text, error=str(error))


def joined(pieces: list[ReelPiece]) -> Reel:
    """All pieces as one.

    Raises:
        VoiceReelError: What the first segment failed with, if all did.
    """
    ends = [piece for piece in pieces if piece.caption]
    if all(piece.error for piece in ends):
        raise next(piece.error for piece in ends if piece.error)
    captions = [piece.caption for piece in pieces if piece.caption]
    cut = any(piece.finish_reason == "length" for piece in pieces)
    waveform = np.concatenate([piece.waveform for piece in pieces])
    return Reel(Audio(waveform, pieces[0].sample_rate_hz, "length" if cut else "stop"), captions)
