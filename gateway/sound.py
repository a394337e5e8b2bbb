"""From the model's chunks to bytes: tempo, sample rate, 16 bits, format.

Every stage keeps its state from piece to piece, so that the bytes of a stream, joined, are those of
the whole, whatever the chunks were.
"""

import hashlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import soxr
from av import error as av_error
from av.filter import Graph

from gateway.errors import ApiError
from gateway.formats import FORMATS
from voicereel.captions import Caption

SPEEDS = (0.25, 4.0)  # OpenAI's range
_SLOWEST_STAGE = 0.5  # atempo's; slower is several stages
_LEVELS = 32767  # 16 bits; the same scale up and down, so that silence stays silence


class Sound(Protocol):
    """A piece of speech: `AudioChunk` and `ReelPiece` are such."""

    @property
    def waveform(self) -> np.ndarray: ...
    @property
    def sample_rate_hz(self) -> int: ...


@dataclass(frozen=True)
class Shape:
    """How the audio is to leave.

    Attributes:
        format: A name in `FORMATS`.
        rate_hz: Samples per second.
        speed: Tempo; the pitch stays.
        whole: True: one piece of bytes with true sizes; False: bytes as they come.
        kbps: kbit/s of mp3 and opus; 0: 128 and 48.
        gain: Factor of the amplitude.
    """

    format: str
    rate_hz: int
    speed: float = 1.0
    whole: bool = False
    kbps: int = 0
    gain: float = 1.0


class Track:
    """One track on its way out.

    Attributes:
        samples: Samples that have left, at the rate of `shape`.
        heard_s: Seconds of audio that the model made.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape, self.samples, self.heard_s = shape, 0, 0.0
        self._digest = hashlib.sha256()
        self._encoder = FORMATS[shape.format].encoder(shape.rate_hz, shape.whole, shape.kbps)
        self._stages: list[Any] | None = None

    @property
    def seconds(self) -> float:
        return self.samples / self.shape.rate_hz

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return self._digest.hexdigest()

    def feed(self, sound: Sound) -> bytes:
        """Append float32 samples; the bytes that are complete."""
        if self._stages is None:  # the model's rate is known with its first chunk
            self._stages = self._made(sound.sample_rate_hz)
        self.heard_s += len(sound.waveform) / sound.sample_rate_hz
        waveform = sound.waveform
        for stage in self._stages:
            waveform = stage.feed(waveform)
        return self._encoded(waveform)

    def finish(self) -> bytes:
        """End the track; the rest of the bytes."""
        tail, stages = np.zeros(0, np.float32), self._stages or []
        for stage in stages:
            tail = np.concatenate([stage.feed(tail), stage.finish()])
        rest = self._encoded(tail)
        last = self._encoder.finish()
        self._digest.update(last)
        return rest + last

    def _encoded(self, waveform: np.ndarray) -> bytes:
        self.samples += len(waveform)
        louder = waveform * np.float32(self.shape.gain)
        levels = np.rint(np.clip(louder, -1.0, 1.0) * _LEVELS).astype(np.int16)
        encoded = self._encoder.feed(levels) if len(levels) else b""
        self._digest.update(encoded)
        return encoded

    def _made(self, rate_hz: int) -> list[Any]:
        stages: list[Any] = [] if self.shape.speed == 1 else [Tempo(rate_hz, self.shape.speed)]
        return [*stages, *([] if rate_hz == self.shape.rate_hz else
                           [Resampler(rate_hz, self.shape.rate_hz)])]  # fmt: skip


class Resampler:
    """`soxr`, whose stream equals the whole bit for bit."""

    def __init__(self, rate_hz: int, to_hz: int) -> None:
        self._stream = soxr.ResampleStream(rate_hz, to_hz, 1, dtype="float32", quality="HQ")

    def feed(self, waveform: np.ndarray) -> np.ndarray:
        return self._stream.resample_chunk(np.ascontiguousarray(waveform, np.float32))

    def finish(self) -> np.ndarray:
        return self._stream.resample_chunk(np.zeros(0, np.float32), last=True)


class Tempo:
    """FFmpeg's `atempo` (overlap and add): speech is faster or slower, its pitch stays.

    It holds back about 50 ms of audio, and takes 5 to 50 ms of a core for each second.
    """

    def __init__(self, rate_hz: int, speed: float) -> None:
        self._rate_hz, self._position, self._graph = rate_hz, 0, Graph()
        time_base = Fraction(1, rate_hz)
        nodes: list[Any] = [
            self._graph.add_abuffer(
                sample_rate=rate_hz, format="flt", layout="mono", time_base=time_base
            )
        ]
        while speed < _SLOWEST_STAGE:
            nodes.append(self._graph.add("atempo", str(_SLOWEST_STAGE)))
            speed /= _SLOWEST_STAGE
        nodes += [self._graph.add("atempo", f"{speed:.9f}"), self._graph.add("abuffersink")]
        self._graph.link_nodes(*nodes).configure()

    def feed(self, waveform: np.ndarray) -> np.ndarray:
        if len(waveform):
            samples = np.ascontiguousarray(waveform, np.float32)[None]
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate, frame.pts = self._rate_hz, self._position
            self._position += len(waveform)
            self._graph.push(frame)
        return self._pulled()

    def finish(self) -> np.ndarray:
        if not self._position:
            return np.zeros(0, np.float32)
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> np.ndarray:
        found = [np.zeros(0, np.float32)]
        while self._position:
            try:
                frame: Any = self._graph.pull()
            except (av_error.BlockingIOError, av_error.EOFError):
                break
            found.append(frame.to_ndarray().reshape(-1))
        return np.concatenate(found)


class Piece(NamedTuple):
    """Some bytes of a track, with all its seconds so far, and the captions that end with them."""

    data: bytes
    seconds: float
    captions: tuple[Caption, ...] = ()


def _no_captions(_: Sound) -> tuple[Caption, ...]:
    return ()


def encoded(
    sounds: Iterable[Sound],
    track: Track,
    captions_of: Callable[[Any], tuple[Caption, ...]] = _no_captions,
) -> Generator[Piece]:
    """Encode sounds as they come; every piece holds at least a byte, or a caption.

    Raises:
        ApiError: 422, if there is no sound.
    """
    for sound in sounds:
        data, captions = track.feed(sound), captions_of(sound)
        if data or captions:
            yield Piece(data, track.seconds, captions)
    if not track.heard_s:
        raise ApiError(422, "nothing in the text can be spoken", "input", "no_speech")
    if data := track.finish():
        yield Piece(data, track.seconds)
