"""The reel: what a script sounds like, in pieces with captions and as a whole."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from voicereel.audio import CODEC_SAMPLE_RATE_HZ, Audio, AudioChunk
from voicereel.captions import Caption, CaptionPart
from voicereel.errors import ServerError, VoiceReelError
from voicereel.script.requests import SegmentRequest
from voicereel.script.workers import Event

SKIPPED_GAP_S = 1.0  # seconds of silence in place of a failed segment; chosen to be noticed


class Reel(NamedTuple):
    """The audio of a script, with captions.

    Attributes:
        audio: The whole script; its finish_reason is "length" if any segment was cut off.
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
        caption: Of the segment, with its last piece, which is the silence after it; None before.
        finish_reason: As in `Audio`, with the last piece; "" before, and for a skipped segment.
        error: The error for which the segment was skipped.
        warnings: As in `Audio`, with the last piece; each names the segment.
    """

    segment: int
    waveform: np.ndarray
    sample_rate_hz: int
    caption: Caption | None = None
    finish_reason: str = ""
    error: VoiceReelError | None = None
    warnings: tuple[str, ...] = ()


def captioned(
    requests: list[SegmentRequest], events: Iterable[tuple[int, Event | str]]
) -> Generator[ReelPiece]:
    """Yield every sound as a piece, and after each segment a piece of silence with its caption.

    Args:
        requests: One for each segment.
        events: Segment numbers in order, each with its sounds and then None or an error. A text
            says that a part of a long segment ends, which said it.

    Raises:
        ServerError: If segments arrive with different sample rates.
    """
    # Before the first sound the rate is taken to be the codec's, for the gaps of failed segments.
    rate_hz, is_known = CODEC_SAMPLE_RATE_HZ, False
    start = position = 0  # first sample of the segment, and of what follows in it
    finish_reason, warnings = "", []
    parts: list[CaptionPart] = []
    for number, event in events:
        request = requests[number]
        if isinstance(event, Audio | AudioChunk):
            if event.sample_rate_hz != rate_hz and (is_known or position):
                raise ServerError(
                    f"{request.name} came with {event.sample_rate_hz} Hz, expected {rate_hz} Hz "
                    "as before: are there servers of two checkpoints behind one address?"
                )
            rate_hz, is_known = event.sample_rate_hz, True
            if finish_reason in ("", "stop"):  # a segment is cut off if any part of it is
                finish_reason = event.finish_reason
            position += len(event.waveform)
            warnings += [f"{request.name}: {warning}" for warning in event.warnings]
            yield ReelPiece(number, event.waveform, rate_hz)
            continue
        if isinstance(event, str):
            begin = parts[-1]["end"] if parts else start / rate_hz
            parts.append(CaptionPart(start=begin, end=position / rate_hz, text=event))
            continue
        gap = round(SKIPPED_GAP_S * rate_hz) if event else 0
        silence = gap + round(request.silence_after_s * rate_hz)
        caption = _caption(request, start / rate_hz, (position + gap) / rate_hz, event, parts)
        start, parts = position + silence, []
        position = start
        finished, finish_reason = "" if event else finish_reason, ""
        told, warnings = tuple(warnings), []
        silent = np.zeros(silence, np.float32)
        yield ReelPiece(number, silent, rate_hz, caption, finished, event, told)


def _caption(
    request: SegmentRequest,
    start: float,
    end: float,
    error: VoiceReelError | None,
    parts: list[CaptionPart],
) -> Caption:
    if error is None:
        caption = Caption(start=start, end=end, speaker=request.speaker, text=request.text)
        if parts:
            caption["parts"] = parts
        return caption
    text = f"[not spoken: {type(error).__name__}] {request.text}"
    return Caption(start=start, end=end, speaker=request.speaker, text=text, error=str(error))


def joined(pieces: list[ReelPiece]) -> Reel:
    """Join all pieces into one reel.

    Raises:
        VoiceReelError: The error of the first segment, if all segments failed.
    """
    ends = [piece for piece in pieces if piece.caption]
    if all(piece.error for piece in ends):
        raise next(piece.error for piece in ends if piece.error)
    captions = [piece.caption for piece in pieces if piece.caption]
    is_cut = any(piece.finish_reason == "length" for piece in pieces)
    waveform = np.concatenate([piece.waveform for piece in pieces])
    finish_reason = "length" if is_cut else "stop"
    warnings = tuple(warning for piece in pieces for warning in piece.warnings)
    return Reel(Audio(waveform, pieces[0].sample_rate_hz, finish_reason, warnings), captions)
