"""The six formats: samples in, bytes out, piece by piece, into outputs that cannot seek.

| format | by | a piece of 50 ms leaves |
|--|--|--|
| pcm, wav | NumPy; a WAV header by hand, since a muxer's has a LIST chunk and a trailer | at once |
| mp3 | LAME (lameenc): a quarter of PyAV's time | at once |
| opus | libopus in Ogg, by PyAV; pages of 20 ms instead of one second | at once |
| flac | FFmpeg's encoder, by PyAV; level 2 has blocks of 26 ms, higher ones of 105 ms | at once |
| aac | FFmpeg's encoder, by PyAV, in ADTS | at once |

What an encoder gives, joined, does not depend on how the samples were cut.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from typing import Any, Protocol

import av
import lameenc
import numpy as np

from voicereel.audio import CODEC_SAMPLE_RATE_HZ

UNKNOWN_SIZE = 0xFFFFFFFF  # what a streamed WAV header has for the sizes


class Encoder(Protocol):
    """Encodes one mono track.

    A header comes with the first bytes. An encoder that was made `whole` may give all its bytes
    with `finish`, and then states true sizes.
    """

    def feed(self, samples: np.ndarray) -> bytes:
        """Encode int16 (samples,) at the encoder's rate; b"" if nothing is complete yet."""
        ...

    def finish(self) -> bytes:
        """The rest."""
        ...


class Pcm:
    """Signed 16 bit little endian, without a header."""

    def __init__(self, rate_hz: int, whole: bool, kbps: int = 0) -> None:
        pass

    def feed(self, samples: np.ndarray) -> bytes:
        return samples.astype("<i2").tobytes()

    def finish(self) -> bytes:
        return b""


class Wav:
    """A header of 44 bytes, and then `Pcm`."""

    def __init__(self, rate_hz: int, whole: bool, kbps: int = 0) -> None:
        self._rate_hz, self._whole = rate_hz, whole
        self._header, self._samples = b"" if whole else self._header_for(None), bytearray()

    def _header_for(self, size: int | None) -> bytes:
        riff, data = (UNKNOWN_SIZE,) * 2 if size is None else (36 + size, size)
        form = struct.pack("<HHIIHH", 1, 1, self._rate_hz, self._rate_hz * 2, 2, 16)
        return struct.pack("<4sI4s4sI16s4sI", b"RIFF", riff, b"WAVE", b"fmt ", 16, form, b"data",
                           data)  # fmt: skip

    def feed(self, samples: np.ndarray) -> bytes:
        self._samples += samples.astype("<i2").tobytes()
        return b"" if self._whole else self._taken()

    def finish(self) -> bytes:
        if self._whole:
            self._header = self._header_for(len(self._samples))
        return self._taken()

    def _taken(self) -> bytes:
        taken = self._header + bytes(self._samples)
        self._header = b""
        self._samples.clear()
        return taken


class Lame:
    """MP3 of a constant bit rate."""

    def __init__(self, rate_hz: int, whole: bool, kbps: int = 0) -> None:
        self._encoder = lameenc.Encoder()
        self._encoder.silence()  # it would write to stdout
        self._encoder.set_channels(1)
        self._encoder.set_in_sample_rate(rate_hz)
        self._encoder.set_out_sample_rate(rate_hz)
        most = 320 if rate_hz >= 32_000 else 64  # MPEG-2.5 ends there
        self._encoder.set_bit_rate(min(kbps or 128, most))
        self._encoder.set_quality(2)  # LAME's "near best"; 7 would save 2 ms a second

    def feed(self, samples: np.ndarray) -> bytes:
        return bytes(self._encoder.encode(samples.tobytes()))

    def finish(self) -> bytes:
        return bytes(self._encoder.flush())


class _Sink:
    """A file that can only be written to."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: Any) -> int:
        self._written += bytes(data)
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class Container:
    """A codec of FFmpeg's libraries in a container."""

    def __init__(
        self, muxer: str, codec: str, rate_hz: int, whole: bool, bit_rate: int | None = None,
        *, muxing: dict[str, str] | None = None, coding: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._file, self._whole = (BytesIO() if whole else _Sink()), whole
        # bitexact: no random serial number, so that equal audio is equal bytes.
        options = {"fflags": "+bitexact", "flush_packets": "1", **(muxing or {})}
        self._container: Any = av.open(self._file, "w", format=muxer, options=options)
        self._stream: Any = self._container.add_stream(
            codec, rate=rate_hz, layout="mono", options=coding or {}
        )
        if bit_rate:
            self._stream.bit_rate = bit_rate
        self._rate_hz, self._position = rate_hz, 0

    def feed(self, samples: np.ndarray) -> bytes:
        if not len(samples):
            return b""
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._position
        self._position += len(samples)
        self._container.mux(self._stream.encode(frame))
        return self._taken()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()  # writes the last page
        return self._file.getvalue() if isinstance(self._file, BytesIO) else self._file.take()

    def _taken(self) -> bytes:
        return b"" if isinstance(self._file, BytesIO) else self._file.take()


def _opus(rate_hz: int, whole: bool, kbps: int = 0) -> Encoder:
    pages = {"page_duration": "20000"}  # us; the default of a second delays by that much
    return Container("ogg", "libopus", rate_hz, whole, (kbps or 48) * 1000, muxing=pages)


def _flac(rate_hz: int, whole: bool, kbps: int = 0) -> Encoder:
    no_padding = {"metadata_header_padding": "0"}  # 8 kB by default, in front of the first audio
    level = {"compression_level": "2"}
    return Container("flac", "flac", rate_hz, whole, muxing=no_padding, coding=level)


def _aac(rate_hz: int, whole: bool, kbps: int = 0) -> Encoder:
    return Container("adts", "aac", rate_hz, whole, 96_000 if rate_hz >= 32_000 else 48_000)


@dataclass(frozen=True)
class Format:
    """What can be asked for.

    Attributes:
        content_type: Of the answer.
        rates_hz: Sample rates that it can have.
        default_rate_hz: The rate if none was asked for.
        is_exact: Whether decoding gives the very samples.
        encoder: Makes an encoder for a rate; whether it is `whole`; kbit/s, of mp3 and opus.
    """

    content_type: str
    rates_hz: tuple[int, ...]
    default_rate_hz: int
    is_exact: bool
    encoder: Callable[[int, bool, int], Encoder]


_OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
_MPEG_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_NATIVE = CODEC_SAMPLE_RATE_HZ
FORMATS: dict[str, Format] = {
    "mp3": Format("audio/mpeg", _MPEG_RATES, _NATIVE, False, Lame),
    "opus": Format("audio/ogg", _OPUS_RATES, 48_000, False, _opus),
    "aac": Format("audio/aac", _MPEG_RATES, _NATIVE, False, _aac),
    "flac": Format("audio/flac", _MPEG_RATES, _NATIVE, True, _flac),
    "wav": Format("audio/wav", _MPEG_RATES, 24_000, True, Wav),  # 24 kHz: OpenAI's
    "pcm": Format("audio/pcm", _MPEG_RATES, 24_000, True, Pcm),
}
