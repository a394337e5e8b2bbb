"""A script, spoken: one waveform and its captions.

    audio, captions = synthesize_script(client, script, {"ALICE": alice, "BOB": "bob.npz"}, seed=7)

Every segment is the request `client.synthesize(text, voice, **options)` and sounds as that does
alone: the script's seed is the seed of each segment, so that changing one leaves the others as
they are. Who wants two equal segments to sound differently gives one its own seed.
"""

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from typing import Literal, TypeAlias

from typing_extensions import Unpack

from voicereel.client import Client
from voicereel.flight import Sound, heard_in_order
from voicereel.reel_pieces import Reel, ReelPiece, captioned, joined
from voicereel.request import Options, Voice
from voicereel.script import ScriptLike
from voicereel.script_requests import SegmentRequest, requests_of

OnError: TypeAlias = Literal["raise", "skip"]
Progress: TypeAlias = Callable[[int, float], None]


class ScriptOptions(Options, total=False):
    """How to speak a script; the `Options` are for all segments, those of a segment go before.

    Attributes:
        max_workers: Segments in flight at a time; 4 if left out.
        parallel: False: one at a time.
        on_error: "raise", or "skip": a segment that failed leaves a second of silence and a
            caption that says so.
        silence_s: Seconds between segments that do not say themselves; 0 if left out.
        timeout_s: For each segment, instead of the client's.
    """

    max_workers: int
    parallel: bool
    on_error: OnError
    silence_s: float
    timeout_s: float | None


def synthesize_script(
    client: Client,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    **how: Unpack[ScriptOptions],
) -> Reel:
    """Speak a script, several segments at a time, those of similar length together.

    Args:
        client: Of the server; gRPC or HTTP.
        script: Segments: `{"speaker_id", "text"}`, see `Segment`; or of `load_script`.
        speaker_features: The voice of each speaker: features or the .npz file of some; None is
            the checkpoint's own.
        progress: Told the number of each segment that is done, from 0, and its seconds of audio;
            called from threads.
        stop: Set it to give up: nothing more is begun, and `Cancelled` is raised.
        **how: See `ScriptOptions`.

    Raises:
        InvalidRequest: Before any work: for a wrong script, an unknown speaker, an unusable voice.
        VoiceReelError: What a segment failed with; the message names it. With "skip" only if all
            of them failed.
        ValueError: If max_workers, silence_s or on_error make no sense.
    """
    flight = _Flight(script, speaker_features, **how)

    def speak(request: SegmentRequest, number: int) -> Generator[Sound]:
        audio = client.synthesize(**request.arguments)
        if progress:
            progress(number, audio.duration_s)
        yield audio

    longest_first = sorted(
        range(len(flight.requests)), key=lambda number: -len(flight.requests[number].text)
    )
    return joined(list(flight.pieces(speak, longest_first, stop or threading.Event())))


async def synthesize_script_async(
    client: Client,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    *,
    progress: Progress | None = None,
    **how: Unpack[ScriptOptions],
) -> Reel:
    """`synthesize_script` for asyncio. Cancelling it begins no further segment."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(
            synthesize_script, client, script, speaker_features, progress=progress, stop=stop, **how
        )
    finally:
        stop.set()


def stream_script(
    client: Client,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    **how: Unpack[ScriptOptions],
) -> Generator[ReelPiece]:
    """Speak a script, piece by piece in its order as the server makes them; gRPC only.

    Arguments and errors are those of `synthesize_script`; segments are begun in the script's
    order. What is wrong before any work is raised by the call, the rest where it is heard.
    Closing the iterator cancels. A segment skipped in mid-speech keeps what was heard of it.
    """
    flight = _Flight(script, speaker_features, **how)

    def speak(request: SegmentRequest, _: int) -> Generator[Sound]:
        yield from client.stream(**request.arguments)

    return flight.pieces(speak, range(len(flight.requests)), threading.Event())


class _Flight:
    """A script on its way: requests out, pieces in."""

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
        **options: Unpack[Options],
    ) -> None:
        if max_workers < 1:
            raise ValueError(f"max_workers is {max_workers}, expected at least 1")
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}, expected raise or skip")
        self.requests = requests_of(script, speaker_features, silence_s, timeout_s, options)
        self._max_workers, self._skip = max_workers if parallel else 1, on_error == "skip"

    def pieces(
        self,
        speak: Callable[[SegmentRequest, int], Generator[Sound]],
        order: Iterable[int],
        stop: threading.Event,
    ) -> Generator[ReelPiece]:
        """Every segment's sounds, and a last piece of silence with its caption."""

        def spoken(number: int) -> Generator[Sound]:
            with self.requests[number].named():
                yield from speak(self.requests[number], number)

        heard = heard_in_order(
            spoken, order, max_workers=self._max_workers, keep_going=self._skip, stop=stop
        )
        with closing(heard):
            yield from captioned(self.requests, heard)
