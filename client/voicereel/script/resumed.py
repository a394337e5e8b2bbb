"""A stream that goes on after its server was lost, where the same seed gives the same audio."""

import logging
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace

import numpy as np

from voicereel.audio import AudioChunk
from voicereel.errors import ServerError, ServerUnavailable

_LOSSES = 2  # of servers in one stream; a request that ends them must not end all
_SAME = 1e-4  # float32; equal codes, decoded in windows of other lengths, differ by less

log = logging.getLogger("voicereel.repeats")


def resumed(begin: Callable[[], Generator[AudioChunk]]) -> Generator[AudioChunk]:
    """Yield a stream, and the rest of it from its beginning again when its server was lost.

    What was yielded is never yielded twice: it is compared with what comes again, and left out.

    Args:
        begin: Begins the stream; always with the same seed.

    Raises:
        ServerError: If what comes again is something else.
        VoiceReelError: Any other error of the stream, and the loss of a third server.
    """
    given = np.empty(0, np.float32)
    index = losses = 0
    while True:
        at = 0  # first sample of the chunk
        try:
            with closing(begin()) as chunks:
                for chunk in chunks:
                    known = given[at : at + len(chunk.waveform)]
                    at += len(chunk.waveform)
                    _require_same(known, chunk, at < len(given))
                    rest = chunk.waveform[len(known) :]
                    given = np.concatenate([given, rest])
                    if len(rest) or chunk.is_last:
                        yield replace(chunk, waveform=rest, index=index)
                        index += 1
            return
        except ServerUnavailable as error:
            losses += 1
            if not at or losses > _LOSSES:  # before any audio the client itself has tried again
                raise
            rate_hz = chunk.sample_rate_hz
            log.warning("a stream is continued after %.2f s: %s", len(given) / rate_hz, error)


def _require_same(known: np.ndarray, chunk: AudioChunk, lacks_some: bool) -> None:
    again = chunk.waveform[: len(known)]
    if (chunk.is_last and lacks_some) or not np.allclose(known, again, rtol=0, atol=_SAME):
        raise ServerError(
            "the server was lost, and the one that went on speaks differently with the same seed: "
            "the audio is incomplete. Are there servers of two kinds or versions?"
        )
