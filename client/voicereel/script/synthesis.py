"""The segments of a script in flight together, long ones in parts."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

from typing_extensions import Unpack

from voicereel.errors import VoiceReelError
from voicereel.script.reel import ReelPiece, captioned
from voicereel.script.requests import SegmentRequest, requests_of
from voicereel.script.segment import ScriptLike
from voicereel.script.sentences import parts_of
from voicereel.script.workers import Sound, heard_in_order
from voicereel.transport.request import Options, Voice

OnError: TypeAlias = Literal["raise", "skip"]
Progress: TypeAlias = Callable[[int, float], None]


@dataclass(frozen=True)
class Part:
    """What is asked for in one go: a segment, or some sentences of a long one."""

    segment: int
    request: SegmentRequest
    text: str
    is_last: bool


class ScriptFlight:
    """A script on its way: requests out, pieces in. Arguments and errors: `synthesize_script`."""

    def __init__(
        self,
        script: ScriptLike,
        speaker_features: Mapping[str, Voice | None],
        *,
        max_workers: int = 4,
        parallel: bool = True,
        on_error: OnError = "raise",
        silence_s: float = 0.0,
        timeout_s: float | None = None,
        language: str = "en",
        **options: Unpack[Options],
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}, expected at least 1")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}, expected raise or skip")
        self.requests = requests_of(script, speaker_features, silence_s, timeout_s, options)
        self.parts = [
            Part(number, request, text, is_last=index + 1 == len(texts))
            for number, request in enumerate(self.requests)
            for texts in [parts_of(request.text, language)]
            for index, text in enumerate(texts)
        ]
        self._max_workers, self._skip = max_workers if parallel else 1, on_error == "skip"

    def pieces(
        self,
        speak: Callable[[Part], Generator[Sound]],
        order: Iterable[int],
        stop: threading.Event,
    ) -> Generator[ReelPiece]:
        """Every segment's sounds, and a last piece of silence with its caption."""

        def spoken(number: int) -> Generator[Sound]:
            with self.parts[number].request.named():
                yield from speak(self.parts[number])

        heard = heard_in_order(
            spoken, order, max_workers=self._max_workers, keep_going=self._skip, stop=stop
        )
        with closing(heard):
            yield from captioned(self.requests, self._by_segment(heard))

    def _by_segment(
        self, heard: Iterable[tuple[int, Sound | VoiceReelError | None]]
    ) -> Generator[tuple[int, Sound | VoiceReelError | None]]:
        """Parts of one segment as one; of a failed one nothing after the failure."""
        failed = -1
        for number, sound in heard:
            part = self.parts[number]
            if part.segment == failed or (sound is None and not part.is_last):
                continue
            if isinstance(sound, VoiceReelError):
                failed = part.segment
            yield part.segment, sound


class SegmentsDone:
    """Which segments are complete, told as each is."""

    def __init__(self, flight: ScriptFlight, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._missing = Counter(part.segment for part in flight.parts)
        self._audio_s: dict[int, float] = defaultdict(float)

    def note(self, segment: int, audio_s: float) -> None:
        """One more part of a segment is there."""
        with self._lock:
            self._missing[segment] -= 1
            self._audio_s[segment] += audio_s
            is_complete = not self._missing[segment]
        if is_complete and self._progress:
            self._progress(segment, self._audio_s[segment])
