"""Speech as a WAV file on standard output: `-o -`."""

import io
import struct
import sys
from pathlib import Path

import numpy as np
import soundfile

from voicereel.errors import InvalidRequest
from voicereel.headers import UNKNOWN_SIZE

STANDARD_OUTPUT = Path("-")
_HEADER_BYTES = 44


class StdoutWriter:
    """Writes a 16-bit WAV file piece by piece; its header gives no length, as a pipe's has none.

    Raises:
        BrokenPipeError: If the reader has left.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate_hz = sample_rate_hz
        header = bytearray(wav_bytes(np.zeros(0, np.float32), sample_rate_hz))
        for at in (4, 40):
            struct.pack_into("<I", header, at, UNKNOWN_SIZE)
        _put(bytes(header))

    def write(self, waveform: np.ndarray) -> None:
        """Append float32 (samples,) in [-1, 1]; louder samples are clipped."""
        _put(wav_bytes(waveform, self._rate_hz)[_HEADER_BYTES:])

    def __enter__(self) -> "StdoutWriter":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def wav_bytes(waveform: np.ndarray, sample_rate_hz: int) -> bytes:
    """The file that `Audio.save` would write as .wav."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), sample_rate_hz, "PCM_16", format="WAV")
    return file.getvalue()


def write_wav(waveform: np.ndarray, sample_rate_hz: int) -> None:
    """Write a whole WAV file to standard output."""
    _put(wav_bytes(waveform, sample_rate_hz))


def check_stdout() -> None:
    """Refuse a standard output that is no place for audio.

    Raises:
        InvalidRequest: If it is a terminal, or closed.
    """
    if sys.stdout is None:
        raise InvalidRequest("-o - writes to standard output, and that is closed")
    if sys.stdout.isatty():
        raise InvalidRequest(
            "-o - writes a WAV file to standard output, and that is a terminal. Send it on: "
            "> FILE.wav or | aplay"
        )


def _put(content: bytes) -> None:
    try:
        rest = memoryview(content)
        while rest:  # with PYTHONUNBUFFERED a write may be a short one
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidRequest(f"cannot write to standard output: {error.strerror}") from None
