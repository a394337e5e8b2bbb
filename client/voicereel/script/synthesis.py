"""The synthesis of a script: requests sent concurrently, pieces given in order."""

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, TypeAlias

from typing_extensions import Unpack

from voicereel.errors import VoiceReelError
from voicereel.options import Options
from voicereel.script.languages import check_language
from voicereel.script.reel import ReelPiece, captioned
from voicereel.script.requests import SegmentRequest, requests_of
from voicereel.script.segment import ScriptLike
from voicereel.script.sentences import parts_of, sentences_of
from voicereel.script.workers import Event, Sound, in_script_order
from voicereel.utterance import checked_retries
from voicereel.voice import Voice

OnError: TypeAlias = Literal["raise", "skip"]
Progress: TypeAlias = Callable[[int, float], None]


@dataclass(frozen=True)
class Part:
    """One request to the server: a segment, or some sentences of a long one.

    Attributes:
        segment: Number of the segment, from 0.
        request: The segment that the part belongs to.
        text: What this request says.
        is_last: Whether the segment ends with it.
    """

    segment: int
    request: SegmentRequest
    text: str
    is_last: bool


class ScriptSynthesis:
    """One run of a script; `synthesize_script` explains arguments and errors.

    Attributes:
        requests: One for each segment.
        parts: All parts of all segments, in the order of the script.
    """

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
        retries: int = 0,
        limit: Callable[[], int] = lambda: 0,
        **options: Unpack[Options],
    ) -> None:
        """Check a script and cut it into parts.

        Args:
            script: As for `synthesize_script`, like all others that are not named here.
            limit: Gives the letters that one request can say at most, beyond a single sentence; 0:
                no limit. Called only for a script with a text of several sentences.
        """
        check_language(language)
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}, expected at least 1")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}, expected raise or skip")
        self.requests = requests_of(script, speaker_features, silence_s, timeout_s, options)
        self.retries = checked_retries(retries)
        several = any(len(sentences_of(request.text, language)) > 1 for request in self.requests)
        most = limit() if several else 0
        self.parts = [
            Part(number, request, text, is_last=index + 1 == len(texts))
            for number, request in enumerate(self.requests)
            for texts in [parts_of(request.text, language, most)]
            for index, text in enumerate(texts)
        ]
        self._max_workers, self._skip = max_workers if parallel else 1, on_error == "skip"

    def pieces(
        self,
        speak: Callable[[Part], Generator[Sound]],
        start_order: Iterable[int],
        stop: threading.Event,
    ) -> Generator[ReelPiece]:
        """Yield the sounds of every segment, and after each a piece of silence with its caption.

        Args:
            speak: Sends the request of a part and gives its sounds.
            start_order: Indices of `parts`, in the order in which to start them.
            stop: Set it to stop the run.
        """

        def spoken(number: int) -> Generator[Sound]:
            with self.parts[number].request.named():
                yield from speak(self.parts[number])

        events = in_script_order(
            spoken, start_order, max_workers=self._max_workers, keep_going=self._skip, stop=stop
        )
        with closing(events):
            yield from captioned(self.requests, self._by_segment(events))

    def _by_segment(
        self, events: Iterable[tuple[int, Event]]
    ) -> Generator[tuple[int, Event | str]]:
        """Turn events of parts into events of segments; a failed segment ends with its error.

        The end of each part of a segment of several is told by its text.
        """
        failed = -1
        for number, event in events:
            part = self.parts[number]
            if part.segment == failed:
                continue
            if event is None and part.text != part.request.text:
                yield part.segment, part.text
                if not part.is_last:
                    continue
            if isinstance(event, VoiceReelError):
                failed = part.segment
            yield part.segment, event


class ProgressCounter:
    """Calls `progress` once for each segment, when its last part has arrived."""

    def __init__(self, synthesis: ScriptSynthesis, progress: Progress | None) -> None:
        self._progress, self._lock = progress, threading.Lock()
        self._missing = Counter(part.segment for part in synthesis.parts)
        self._audio_s: dict[int, float] = defaultdict(float)

    def add_part(self, segment: int, audio_s: float) -> None:
        """Count one more part of a segment as done."""
        with self._lock:
            self._missing[segment] -= 1
            self._audio_s[segment] += audio_s
            is_complete = not self._missing[segment]
        if is_complete and self._progress:
            self._progress(segment, self._audio_s[segment])
