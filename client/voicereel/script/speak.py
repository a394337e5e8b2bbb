"""A script, spoken: one waveform and its captions.

    audio, captions = synthesize_script(client, script, {"ALICE": alice, "BOB": "bob.npz"}, seed=7)

Every segment is the request `client.synthesize(text, voice, **options)` and sounds as that does
alone: the script's seed is the seed of each segment, so that changing one leaves the others as
they are. Who wants two equal segments to sound differently gives one its own seed. A text of more
than 400 bytes is such a request for each part of it (see `voicereel.script.sentences`), joined.
"""

import asyncio
import threading
from collections.abc import Generator, Mapping

from typing_extensions import Unpack

from voicereel.client import Client
from voicereel.script.reel import Reel, ReelPiece, joined
from voicereel.script.segment import ScriptLike
from voicereel.script.synthesis import OnError, Part, Progress, ScriptFlight, SegmentsDone
from voicereel.script.workers import Sound
from voicereel.speaker import Speaker
from voicereel.transport.request import Options, Voice


class ScriptOptions(Options, total=False):
    """How to speak a script; the `Options` are for all segments, those of a segment go before.

    Attributes:
        max_workers: Segments in flight at a time; 4 if left out.
        parallel: False: one at a time.
        on_error: "raise", or "skip": a segment that failed leaves a second of silence and a
            caption that says so, after what was heard of it.
        silence_s: Seconds between segments that do not say themselves; 0 if left out.
        timeout_s: For each request, instead of the client's.
        language: ISO 639 code, for the abbreviations in long texts; "en" if left out.
    """

    max_workers: int
    parallel: bool
    on_error: OnError
    silence_s: float
    timeout_s: float | None
    language: str


def synthesize_script(
    client: Speaker,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    **how: Unpack[ScriptOptions],
) -> Reel:
    """Speak a script, several segments at a time, those of similar length together.

    Args:
        client: Of the server, gRPC or HTTP; or another that speaks.
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
    flight = ScriptFlight(script, speaker_features, **how)

    done = SegmentsDone(flight, progress)

    def speak(part: Part) -> Generator[Sound]:
        audio = client.synthesize(part.text, **part.request.arguments)
        done.note(part.segment, audio.duration_s)
        yield audio

    longest_first = sorted(
        range(len(flight.parts)), key=lambda number: -len(flight.parts[number].text)
    )
    return joined(list(flight.pieces(speak, longest_first, stop or threading.Event())))


async def synthesize_script_async(
    client: Speaker,
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
    flight = ScriptFlight(script, speaker_features, **how)

    def speak(part: Part) -> Generator[Sound]:
        yield from client.stream(part.text, **part.request.arguments)

    return flight.pieces(speak, range(len(flight.parts)), threading.Event())
