"""Recordings as they come in: bytes that claim to be audio."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from av.error import FFmpegError

from gateway.errors import ApiError, invalid
from voicereel import InvalidRequest
from voicereel.audio import RATES_HZ, mono_samples

MAX_RECORDING_BYTES = 10 * 2**20  # OpenAI's limit
SECONDS = (1.0, 30.0)  # shorter holds no voice, longer fills the prompt without being heard
_QUIET = 1e-3  # -60 dB of full scale; a louder noise floor than that is speech or a defect
# Containers that libsndfile does not read, by their first bytes. The demuxer is named, so that
# FFmpeg does not guess: playlists and the like would open files and addresses of their own.
_DEMUXERS = {
    b"\x1a\x45\xdf\xa3": "matroska",  # WebM
    b"\xff\xf1": "aac",
    b"\xff\xf9": "aac",
}
_MP4 = slice(4, 8), b"ftyp"


@contextmanager
def recording_file(recording: bytes, param: str) -> Iterator[Path]:
    """A temporary file that the client reads.

    Args:
        recording: WAV, FLAC, OGG, MP3, AAC, WebM or MP4, of at most 10 MiB.
        param: Name of its field, for messages.

    Raises:
        ApiError: 422, if it is no audio, too short, too long or silent; 413, if it is too large.
    """
    if len(recording) > MAX_RECORDING_BYTES:
        raise ApiError(
            413, f"{param} has {len(recording) / 2**20:.1f} MiB, expected at most 10", param
        )
    samples, rate_hz = _decoded(recording, param)
    seconds = len(samples) / rate_hz
    if not SECONDS[0] <= seconds <= SECONDS[1]:
        length = f"{seconds:.2f}" if seconds <= SECONDS[1] else "more"
        raise invalid(param, f"lasts {length} s, expected {SECONDS[0]:g} to {SECONDS[1]:g} s")
    if not np.isfinite(samples).all() or np.abs(samples).max() < _QUIET:
        raise invalid(param, "is silent; send a recording of speech")
    with tempfile.TemporaryDirectory(prefix="voicereel-") as folder:
        path = Path(folder, "recording.wav")
        soundfile.write(path, samples, rate_hz, subtype="FLOAT")
        yield path


def _decoded(recording: bytes, param: str) -> tuple[np.ndarray, int]:
    """float32 (samples,), a little more than allowed at most; and the rate in Hz."""
    try:
        with soundfile.SoundFile(BytesIO(recording)) as file:
            return mono_samples(file, SECONDS[1] + 1), file.samplerate
    except (soundfile.LibsndfileError, TypeError):
        pass
    except InvalidRequest as error:
        raise invalid(param, f"cannot be read: {error}") from None
    demuxer = "mov" if recording[_MP4[0]] == _MP4[1] else next(
        (name for start, name in _DEMUXERS.items() if recording.startswith(start)), None
    )  # fmt: skip
    try:
        if demuxer:
            return _by_ffmpeg(recording, demuxer)
    except (FFmpegError, ValueError, IndexError, TypeError, MemoryError):
        pass
    raise invalid(
        param, "is no audio that is read here; expected WAV, FLAC, OGG, MP3, AAC, WebM or MP4"
    )


def _by_ffmpeg(recording: bytes, demuxer: str) -> tuple[np.ndarray, int]:
    found, samples = [], 0
    container: Any = av.open(BytesIO(recording), "r", format=demuxer)
    with container:
        source: Any = container.streams.audio[0]
        rate_hz = source.rate
        if not RATES_HZ[0] <= rate_hz <= RATES_HZ[1]:
            raise ValueError("no rate of sound")
        mono: Any = av.AudioResampler(format="flt", layout="mono", rate=rate_hz)
        for frame in container.decode(source):
            for piece in mono.resample(frame):
                found.append(piece.to_ndarray().reshape(-1))
                samples += len(found[-1])
            if samples > (SECONDS[1] + 1) * rate_hz:
                break
    if not found:
        raise ValueError("no samples")
    return np.concatenate(found), rate_hz
