"""Speaks a script into a reel: one waveform and its captions.

    audio, captions = synthesize_script(client, script, {"ALICE": alice, "BOB": "bob.npz"}, seed=7)

Every segment is the request `client.synthesize(text, voice, **options)` and sounds exactly like
that request sent on its own. The script's seed is the seed of each segment, so that changing one
segment leaves the others as they are; two equal segments sound different only if one has a seed of
its own. A text of more than 400 bytes becomes several such requests, whose audio is joined (see
`voicereel.script.sentences`).
"""

import asyncio
import contextvars
import os
import secrets
import threading
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from typing_extensions import Unpack

from voicereel.client import Client
from voicereel.errors import InvalidRequest
from voicereel.options import OPTIONS, Options
from voicereel.script.reel import Reel, ReelPiece, joined
from voicereel.script.resumed import resumed
from voicereel.script.segment import ScriptLike
from voicereel.script.synthesis import OnError, Part, Progress, ProgressCounter, ScriptSynthesis
from voicereel.script.together import speak_together
from voicereel.script.workers import Sound
from voicereel.speaker import Speaker
from voicereel.voice import Voice

_waiting: ThreadPoolExecutor  # has the threads of `synthesize_script_async`


def _renew_threads() -> None:
    """Make an executor without threads; a forked process has none of its parent's."""
    global _waiting
    _waiting = ThreadPoolExecutor(thread_name_prefix="voicereel-async")


_renew_threads()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_renew_threads)


class ScriptOptions(Options, total=False):
    """How to speak a script; its `Options` are for all segments, and a segment's override them.

    Attributes:
        max_workers: Requests in flight at a time; 4 if left out.
        parallel: False sends one request at a time.
        on_error: "raise", or "skip": a segment that failed leaves a second of silence and a
            caption that says so, after the audio that had already arrived.
        silence_s: Seconds between segments, for those that have no `silence_after_s`; 0 if left
            out.
        timeout_s: Seconds for each request, instead of the client's timeout.
        together: True speaks all segments as one dialogue, each heard by the next: for servers of
            Fish Audio S2, see `voicereel.script.together`. `synthesize_script` alone takes it.
        language: ISO 639 code, for the abbreviations in long texts; "en" if left out.
        retries: As in `Client.synthesize`, for each part; 0 if left out. Not for streams.
    """

    max_workers: int
    parallel: bool
    on_error: OnError
    silence_s: float
    timeout_s: float | None
    together: bool
    language: str
    retries: int


def synthesize_script(
    client: Speaker,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    *,
    progress: Progress | None = None,
    stop: threading.Event | None = None,
    **how: Unpack[ScriptOptions],
) -> Reel:
    """Speak a script with several requests in flight; the longest texts start first.

    Args:
        client: A `Client`, over gRPC or HTTP, or another `Speaker`.
        script: Segments, `{"speaker_id", "text"}` (see `Segment`), or what `load_script` returns.
        speaker_features: The voice of each speaker: features or the .npz file of some; None is
            the checkpoint's own voice.
        progress: Called with the number of each segment that is done, from 0, and its seconds of
            audio; called from several threads.
        stop: Set it to stop: no further request starts, and `Cancelled` is raised.
        **how: See `ScriptOptions`.

    Raises:
        InvalidRequest: Before any work: for a wrong script, an unknown speaker, an unusable voice.
        VoiceReelError: The error that a segment failed with; the message names the segment. With
            "skip" only if all segments failed.
        ValueError: If max_workers, silence_s or on_error make no sense.
    """
    if how.pop("together", False):
        return _spoken_together(client, script, speaker_features, progress, how)
    synthesis = ScriptSynthesis(script, speaker_features, limit=_limit_of(client), **how)
    again: dict[str, Any] = {"retries": synthesis.retries} if synthesis.retries else {}
    counter = ProgressCounter(synthesis, progress)

    def speak(part: Part) -> Generator[Sound]:
        audio = client.synthesize(part.text, **part.request.arguments, **again)
        counter.add_part(part.segment, audio.duration_s)
        yield audio

    longest_first = sorted(
        range(len(synthesis.parts)), key=lambda number: -len(synthesis.parts[number].text)
    )
    return joined(list(synthesis.pieces(speak, longest_first, stop or threading.Event())))


def _spoken_together(
    client: Speaker,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    progress: Progress | None,
    how: ScriptOptions,
) -> Reel:
    options = {name: value for name, value in how.items() if name in OPTIONS}
    if how.get("silence_s") or how.get("retries") or how.get("on_error", "raise") != "raise":
        raise InvalidRequest(
            "silence_s, retries and on_error are for segments with requests of their own. "
            "Leave them out, or together"
        )
    timeout_s = how.get("timeout_s")
    reel = speak_together(client, script, speaker_features, timeout_s, options)
    if progress:
        for number, caption in enumerate(reel.captions):
            progress(number, caption["end"] - caption["start"])
    return reel


async def synthesize_script_async(
    client: Speaker,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    *,
    progress: Progress | None = None,
    **how: Unpack[ScriptOptions],
) -> Reel:
    """Speak a script like `synthesize_script`, from asyncio; cancelling starts no more requests.

    Scripts wait in threads of their own, as many as asyncio's executor has by default, so that any
    number of them delays no `asyncio.to_thread`.
    """
    stop = threading.Event()
    speak = partial(
        synthesize_script, client, script, speaker_features, progress=progress, stop=stop, **how
    )
    context = contextvars.copy_context()
    try:
        return await asyncio.get_running_loop().run_in_executor(_waiting, context.run, speak)
    finally:
        stop.set()


def stream_script(
    client: Client,
    script: ScriptLike,
    speaker_features: Mapping[str, Voice | None],
    **how: Unpack[ScriptOptions],
) -> Generator[ReelPiece]:
    """Speak a script and yield its audio in order, as the server makes it; gRPC only.

    Arguments and errors are those of `synthesize_script`; segments start in the script's order.
    Errors that are found before any work are raised by the call, others by the iterator where the
    segment would be heard. A segment whose server is lost while it speaks goes on where its audio
    ended, on a server that is there or comes back. Closing the iterator cancels all requests. A
    segment that fails after it has begun, and is skipped, keeps the audio that had arrived.
    """
    if how.pop("together", False):
        raise InvalidRequest("together=True is for synthesize_script alone")
    if how.get("retries"):
        raise InvalidRequest("retries is for whole answers: what was streamed cannot be taken back")
    synthesis = ScriptSynthesis(script, speaker_features, limit=_limit_of(client), **how)

    def speak(part: Part) -> Generator[Sound]:
        arguments = dict(part.request.arguments)
        if arguments.get("seed") is None:  # drawn here, so that a lost stream can go on
            arguments["seed"] = secrets.randbits(64)
        yield from resumed(partial(client.stream, part.text, **arguments))

    return synthesis.pieces(speak, range(len(synthesis.parts)), threading.Event())


def _limit_of(speaker: Speaker) -> Callable[[], int]:
    """What one request can say; a speaker that does not tell has no limit."""
    facts = getattr(speaker, "speech_facts", None)
    return (lambda: facts().letters_per_request) if facts else lambda: 0
