"""One text, spoken as one request or as several: cut, tried again, joined, and judged by its rate.

A checkpoint may be unable to say several sentences at once, and any checkpoint may skip words or
repeat them. What the checkpoint can do is a fact that the server tells.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from voicereel.audio import Audio, AudioChunk
from voicereel.errors import DeadlineExceeded, InvalidRequest, ServerError, VoiceReelError
from voicereel.rate import letters, rate_warning
from voicereel.script.sentences import smaller_parts
from voicereel.script.workers import Sound, in_script_order

MAX_RETRIES = 10  # more is a slip of the keyboard


@dataclass(frozen=True)
class SpeechFacts:
    """How a checkpoint speaks.

    Attributes:
        letters_per_request: Letters of several sentences in one request, at most; 0: no limit.
        letters_per_s: The slowest and the fastest that it speaks.
    """

    letters_per_request: int = 0
    letters_per_s: tuple[float, float] = (3.0, 30.0)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> "SpeechFacts":
        """From the server's facts; one of an older export may have none of these.

        Raises:
            ServerError: If they make no sense.
        """
        limit, rate = facts.get("letters_per_request"), facts.get("letters_per_s")
        limit, rate = limit or 0, rate or cls.letters_per_s
        try:
            slowest, fastest = rate
            makes_sense = 0 < slowest < fastest < math.inf and type(limit) is int and limit >= 0
        except (TypeError, ValueError):
            makes_sense = False
        if not makes_sense:
            raise ServerError(
                f"the server's letters_per_request {str(limit)[:40]} and letters_per_s "
                f"{str(rate)[:40]} make no sense, expected a count, and two rates"
            )
        return cls(limit, (slowest, fastest))


class Deadline:
    """The seconds that several calls have together."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s, self._end = timeout_s, 0.0

    def left(self) -> float:
        """Seconds left; the first call has them all.

        Raises:
            DeadlineExceeded: If there are none.
        """
        if not self._end:
            self._end = time.monotonic() + self._timeout_s
            return self._timeout_s
        if (left := self._end - time.monotonic()) <= 0:
            raise DeadlineExceeded(f"not complete after {self._timeout_s:g} s")
        return left


def checked_retries(retries: int) -> int:
    """The number itself.

    Raises:
        InvalidRequest: If it is not 0 to 10.
    """
    if not 0 <= retries <= MAX_RETRIES:
        raise InvalidRequest(f"retries is {retries}, expected 0 to {MAX_RETRIES}")
    return retries


def spoken(
    text: str, say: Callable[[str, int], Audio], retries: int, facts: Callable[[], SpeechFacts]
) -> Audio:
    """Speak one part, and again while its rate is impossible or it ran away.

    The first retry is with another seed, those after it in smaller parts as well.

    Args:
        text: The part.
        say: Sends one request: the text, and how often it was tried before.
        retries: How often to try again.
        facts: Gives what the checkpoint can do.

    Returns:
        The first that is right, or the one whose rate is nearest to that; with a warning.

    Raises:
        VoiceReelError: If the first request fails; a retry that fails is the last.
    """
    tries: list[Audio] = []
    for attempt in range(retries + 1):
        pieces = smaller_parts(text) if attempt > 1 else [text]
        try:
            audio = joined([say(piece, attempt) for piece in pieces])
        except VoiceReelError:
            if not tries:
                raise
            break  # what has been spoken is better than nothing
        audio = replace(audio, warnings=warnings_of(text, audio, facts))
        if not audio.warnings and audio.finish_reason != "runaway":
            return audio
        tries.append(audio)
    return min(tries, key=lambda audio: _strangeness(text, audio, facts()))


def warnings_of(text: str, audio: Audio, facts: Callable[[], SpeechFacts]) -> tuple[str, ...]:
    """Warnings about speech that ended by itself; other endings say themselves what is wrong."""
    if audio.finish_reason != "stop":
        return ()
    warning = rate_warning(text, audio.duration_s, facts().letters_per_s)
    return (warning,) if warning else ()


def _strangeness(text: str, audio: Audio, facts: SpeechFacts) -> float:
    rate = letters(text) / max(audio.duration_s, 1e-3)
    return abs(math.log(max(rate, 1e-3) / math.sqrt(math.prod(facts.letters_per_s))))


def in_parallel(parts: list[str], speak: Callable[[str], Audio], at_a_time: int) -> list[Audio]:
    """Speak parts, several at a time; the audio in the order of the parts."""
    if len(parts) == 1:
        return [speak(parts[0])]

    def sounds(number: int) -> Generator[Sound]:
        yield speak(parts[number])

    found = _ordered(len(parts), sounds, at_a_time)
    return [sound for _, sound in found if isinstance(sound, Audio)]


def joined(audios: list[Audio]) -> Audio:
    """The parts of one text as one audio, with the warnings of all; cut off if any part is."""
    if len(audios) == 1:
        return audios[0]
    return Audio(
        np.concatenate([audio.waveform for audio in audios]),
        audios[0].sample_rate_hz,
        _worst([audio.finish_reason for audio in audios]),
        tuple(warning for audio in audios for warning in audio.warnings),
    )


def streamed(
    cut: Callable[[], list[str]],
    stream: Callable[[str], Generator[AudioChunk]],
    facts: Callable[[], SpeechFacts],
) -> Generator[AudioChunk]:
    """Stream a text's parts as one stream; the next part is asked for when one has been made.

    Not before: the listener needs the part that plays now, and so do other listeners.

    Args:
        cut: Gives the parts; called with the first `next`, since it may ask the server.
        stream: Streams one part.
        facts: Gives what the checkpoint can do.
    """
    parts = cut()

    def sounds(number: int) -> Generator[Sound]:
        with closing(stream(parts[number])) as chunks:
            yield from _judged(parts[number], chunks, facts)

    if len(parts) == 1:
        yield from _judged(parts[0], stream(parts[0]), facts)
        return
    index, reasons, warnings = 0, [], ()
    with closing(_ordered(len(parts), sounds, at_a_time=1)) as found:
        for number, chunk in found:
            if not isinstance(chunk, AudioChunk):
                continue
            ends = chunk.is_last and number == len(parts) - 1
            if chunk.is_last:
                reasons.append(chunk.finish_reason)
                warnings += chunk.warnings
            if ends:
                reason = _worst(reasons)
                yield replace(chunk, index=index, finish_reason=reason, warnings=warnings)
            elif len(chunk.waveform):
                yield replace(chunk, index=index, is_last=False, finish_reason="", warnings=())
                index += 1


def _worst(finish_reasons: list[str]) -> str:
    return next((reason for reason in finish_reasons if reason != "stop"), "stop")


def _judged(
    text: str, chunks: Generator[AudioChunk], facts: Callable[[], SpeechFacts]
) -> Generator[AudioChunk]:
    """The same chunks, the last one with its warnings."""
    samples = 0
    with closing(chunks):
        for chunk in chunks:
            samples += len(chunk.waveform)
            if not chunk.is_last:
                yield chunk
                continue
            whole = Audio(np.broadcast_to(np.float32(0), samples), chunk.sample_rate_hz,
                          chunk.finish_reason)  # fmt: skip
            yield replace(chunk, warnings=warnings_of(text, whole, facts))


def _ordered(
    count: int, speak: Callable[[int], Generator[Sound]], at_a_time: int
) -> Generator[tuple[int, Any]]:
    order: Iterable[int] = range(count)
    return in_script_order(
        speak, order, max_workers=at_a_time, keep_going=False, stop=threading.Event()
    )
