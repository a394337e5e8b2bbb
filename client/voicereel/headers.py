"""Headers of audio files whose writer has not come to its end: kept true, or read past.

libsndfile writes the length into a header when it closes a file. A process that is killed, or a
pipe that cannot be wound back, leaves a header that says nothing or 0.
"""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

UNKNOWN_SIZE = 0xFFFF_FFFF  # of a chunk of RIFF, where a stream is written
_FLAC_BLOCK = 4096  # samples of a frame, as libFLAC has them by default
_MP3_FRAME = 1152  # samples of a frame, MPEG 1
_MOST_CHUNKS = 1000  # of RIFF that are looked at; real files have some ten
_MOST_HEADER = 2**20  # bytes before the audio
_MOST_BYTES = 2**28  # of audio: five minutes of eight channels at 24 bits
_MP3_TAG_AT = 21  # in the first frame of a mono file: 4 bytes of header, 17 of side information


def keep_wav_true(file: BinaryIO, samples: int) -> None:
    """Write the sizes of a 16-bit mono WAV file of so many samples, as far as 32 bits go."""
    for at, size in ((4, 36 + 2 * samples), (40, 2 * samples)):
        _put(file, at, struct.pack("<I", min(size, UNKNOWN_SIZE)))


def keep_flac_true(file: BinaryIO, samples: int) -> None:
    """Write the number of samples in whole frames, and no checksum, into STREAMINFO.

    Source: RFC 9639, section 8.2. libFLAC holds a frame back until the next one begins.
    """
    whole = max(0, samples - 1) // _FLAC_BLOCK * _FLAC_BLOCK
    file.seek(21)
    rest = file.read(1)[0] & 0xF0  # its upper half belongs to the bits of a sample
    _put(file, 21, bytes([rest | whole >> 32]) + struct.pack(">I", whole & 0xFFFF_FFFF) + bytes(16))


def keep_mp3_true(file: BinaryIO, samples: int) -> None:
    """Write frames and bytes into the empty frame that LAME puts first for them.

    Without them players take the length from the bit rate of the first frame.
    """
    file.seek(0)
    first = file.read(_MP3_TAG_AT + 4)
    if not any(first[4:_MP3_TAG_AT]) and first[_MP3_TAG_AT:] in (bytes(4), b"Xing"):
        size = os.fstat(file.fileno()).st_size
        tag = struct.pack(">4sIII", b"Xing", 3, samples // _MP3_FRAME, size)
        _put(file, _MP3_TAG_AT, tag)


# By suffix. Ogg needs none: its pages say how far they go.
KEEP_TRUE: dict[str, Callable[[BinaryIO, int], None]] = {
    ".wav": keep_wav_true, ".flac": keep_flac_true, ".mp3": keep_mp3_true
}  # fmt: skip


def _put(file: BinaryIO, at: int, content: bytes) -> None:
    file.seek(at)
    file.write(content)
    file.flush()


def streamed_wav(path: str | os.PathLike[str], longest_s: float) -> BinaryIO | None:
    """A WAV file whose header says that it holds nothing although audio follows, as readable.

    Args:
        path: Any file.
        longest_s: Seconds of audio to read at most.

    Returns:
        The file with a header that libsndfile takes; None for any other file.
    """
    with Path(path).open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return None
        bytes_per_s = 0
        for _ in range(_MOST_CHUNKS):
            if len(chunk := file.read(8)) < 8:
                return None
            name, size = struct.unpack("<4sI", chunk)
            if name == b"data":
                start = file.tell()
                if size or _are_chunks(file, end):
                    return None
                if start > _MOST_HEADER:
                    return None
                file.seek(0)
                header = bytearray(file.read(start))
                struct.pack_into("<I", header, start - 4, UNKNOWN_SIZE)
                return io.BytesIO(
                    header + file.read(min(int(bytes_per_s * longest_s), _MOST_BYTES))
                )
            if name == b"fmt ":
                bytes_per_s = int.from_bytes(file.read(12)[8:], "little")
                size -= 12
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _are_chunks(file: BinaryIO, end: int) -> bool:
    """Whether the rest of a file is chunks of RIFF, and no audio; or nothing at all."""
    at = file.tell()
    for _ in range(_MOST_CHUNKS):
        if at >= end:
            break
        file.seek(at)
        name, size = file.read(4), file.read(4)
        if len(size) < 4 or not (name.isascii() and name.decode().isprintable()):
            return False
        size = int.from_bytes(size, "little")
        at += 8 + size + size % 2
    return at in (end, end + 1)  # the last chunk may lack its padding
