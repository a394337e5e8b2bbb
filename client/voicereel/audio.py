"""Audio in and out: recordings of a voice, and the speech that the server returns."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from voicereel.errors import InvalidRequest
from voicereel.headers import KEEP_TRUE, streamed_wav
from voicereel.places import check_place, free_bytes, open_file

# Sample rate of Fish-Speech's codec. It is sent with every recording, so that a server with another
# codec refuses the recording instead of encoding it at a wrong speed.
CODEC_SAMPLE_RATE_HZ = 44_100
MIN_RECORDING_S = 0.1  # too short to hold a voice; the server has the same limit
# Longer than any checkpoint takes (the server has its own limit), so that a file chosen by mistake
# is refused before it is resampled and sent.
MAX_RECORDING_S = 300.0
RATES_HZ = (4_000, 192_000)  # that sound is recorded or played with; others are no sound
_BLOCK = 2**20  # samples of all channels that are read at a time

_FORMATS = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3"}


@dataclass(frozen=True, eq=False)
class Audio:
    """A complete utterance. It can be passed where NumPy expects an array of samples.

    Attributes:
        waveform: float32 (samples,), mono, in [-1, 1].
        sample_rate_hz: Samples per second.
        finish_reason: "stop": the text was said to its end; "length": cut off by `max_new_tokens`;
            "runaway": stopped by the server, because the speech had become a loop.
        warnings: What is suspicious: speech that is impossibly fast or slow for its text.
    """

    waveform: np.ndarray
    sample_rate_hz: int
    finish_reason: str
    warnings: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float:
        return len(self.waveform) / self.sample_rate_hz

    def __len__(self) -> int:
        return len(self.waveform)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.waveform, dtype) if copy else np.asarray(self.waveform, dtype)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .wav or .flac (16 bit), .ogg (Vorbis) or .mp3 file.

        Raises:
            InvalidRequest: If the suffix is none of these, or the file cannot be created.
        """
        with AudioWriter(path, self.sample_rate_hz) as writer:
            writer.write(self.waveform)


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """A piece of speech as it is streamed; the pieces join without a seam.

    Attributes:
        waveform: float32 (samples,), mono, in [-1, 1]; only the last may be empty.
        index: Position in the stream, from 0.
        is_last: Whether the speech ends with this chunk.
        sample_rate_hz: Samples per second.
        finish_reason: As in `Audio`, with the last chunk; "" before.
        warnings: As in `Audio`, with the last chunk.
    """

    waveform: np.ndarray
    index: int
    is_last: bool
    sample_rate_hz: int
    finish_reason: str
    warnings: tuple[str, ...] = ()


class AudioWriter:
    """An audio file written piece by piece, in the format of its suffix.

    What has been written can be played at any time, whatever ends the process.

    Raises:
        InvalidRequest: If the suffix is none of .wav, .flac, .ogg, .mp3, or the file cannot be
            created or written, for example on a full disk.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate_hz: int) -> None:
        check_suffix(path)
        check_place(path)
        self._path, self._samples, self._failed = Path(path), 0, False
        suffix = self._path.suffix.lower()
        self._keep_true = KEEP_TRUE.get(suffix)
        with self._named_errors():
            self._file = soundfile.SoundFile(
                _name(path), "w", sample_rate_hz, channels=1, format=_FORMATS[suffix]
            )

    def write(self, waveform: np.ndarray) -> None:
        """Append float32 (samples,) in [-1, 1]; louder samples are clipped."""
        block = self._file.samplerate  # libsndfile overflows its stack on long Vorbis writes
        for start in range(0, len(waveform), block):
            piece = np.clip(waveform[start : start + block], -1.0, 1.0)
            with self._named_errors():
                self._file.write(piece)
            self._samples += len(piece)
        self._write_length()

    def close(self) -> None:
        try:
            with self._named_errors():
                self._file.close()
        finally:
            if self._failed:
                self._write_length()

    def _write_length(self) -> None:
        """Keep the header true, once there is one; a device has none."""
        if self._keep_true and self._samples and self._path.is_file():
            # On some file systems a full disk refuses this too: then the last length stays.
            with suppress(OSError), self._path.open("r+b") as file:
                self._keep_true(file, self._samples)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except soundfile.LibsndfileError as error:
            self._failed = True
            free = free_bytes(self._path) / 1e6
            raise InvalidRequest(
                f"cannot write {self._path}: {error.error_string} {free:.1f} MB are free there"
            ) from None

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Refuse a file name whose format cannot be written, before anything is synthesised for it.

    Raises:
        InvalidRequest: If the suffix is none of .wav, .flac, .ogg, .mp3.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise InvalidRequest(f"cannot write {path}: expected a name in {', '.join(_FORMATS)}")


def read_recording(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a recording of any rate and number of channels, and convert it for the server.

    Args:
        path: WAV, FLAC, OGG, MP3 or any other format that libsndfile reads; 0.1 to 300 s long.

    Returns:
        float32 (samples,), mono, 44.1 kHz, in [-1, 1].

    Raises:
        InvalidRequest: If it is missing, no audio, too short, too long, or holds NaN.
    """
    samples, sample_rate_hz = _read(path)
    duration_s = len(samples) / sample_rate_hz
    if not MIN_RECORDING_S <= duration_s <= MAX_RECORDING_S:
        length = f"{duration_s:.3g}" if duration_s <= MAX_RECORDING_S else "more"
        raise InvalidRequest(
            f"{path} lasts {length} s, expected {MIN_RECORDING_S} to {MAX_RECORDING_S:.0f} s, "
            "better 5 to 30 s"
        )
    if not np.isfinite(samples).all():
        raise InvalidRequest(f"{path} holds NaN or infinity, expected samples in [-1, 1]")
    mono = soxr.resample(samples, sample_rate_hz, CODEC_SAMPLE_RATE_HZ)
    return mono / max(1.0, float(np.abs(mono).max()))  # resampling overshoots slightly


def mono_samples(file: soundfile.SoundFile, longest_s: float) -> np.ndarray:
    """Read a file and mix it down to mono, in memory that its header cannot make large.

    Args:
        file: Open to read.
        longest_s: Seconds to read at most.

    Returns:
        float32 (samples,).

    Raises:
        InvalidRequest: If its rate is none that sound is recorded with.
    """
    if not RATES_HZ[0] <= file.samplerate <= RATES_HZ[1]:
        raise InvalidRequest(
            f"it has {file.samplerate} samples a second, expected {RATES_HZ[0]} to {RATES_HZ[1]}"
        )
    left, blocks = int(longest_s * file.samplerate), []
    while left > 0:
        block = file.read(
            min(left, max(1, _BLOCK // file.channels)), dtype="float32", always_2d=True
        )
        if not len(block):
            break
        blocks.append(block.mean(axis=1))
        left -= len(block)
    return np.concatenate(blocks) if blocks else np.empty(0, np.float32)


def _name(path: str | os.PathLike[str]) -> Any:
    """A file's name as soundfile takes it: names on POSIX are bytes, and need not be UTF-8."""
    return os.fsencode(path) if os.name == "posix" else os.fspath(path)


def _read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Read float32 (samples,), up to a second more than allowed; and the rate in Hz."""
    if not os.path.exists(path):
        raise InvalidRequest(f"{path}: no such file")
    open_file(path).close()
    try:
        longest_s = MAX_RECORDING_S + 1
        with soundfile.SoundFile(streamed_wav(path, longest_s) or _name(path)) as file:
            return mono_samples(file, longest_s), file.samplerate
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless .raw
        name, reason = shlex.quote(str(path)), getattr(error, "error_string", error)
        raise InvalidRequest(
            f"{path} cannot be read as audio: {reason} WAV, FLAC, OGG (Vorbis, Opus), MP3 and AIFF "
            f"are read. Convert others: ffmpeg -i {name} -ac 1 recording.wav"
        ) from None
    except InvalidRequest as error:
        raise InvalidRequest(f"{path} cannot be read as a recording: {error}") from None
