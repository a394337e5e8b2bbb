"""Voice files and recordings that are made to hurt: refused in little time and memory."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.refused import bounded, refused
from voicereel import VoiceFeatures
from voicereel.audio import read_recording

VOICE = VoiceFeatures(np.ones((10, 4), np.int64), (4,), ("words",), "x")


def saved(path: Path, **changed: bytes | np.ndarray) -> Path:
    """A voice file with some members replaced: by an array, or by the bytes of one."""
    VOICE.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, value in changed.items():
        if isinstance(value, np.ndarray):
            buffer = io.BytesIO()
            np.save(buffer, value)
            value = buffer.getvalue()
        members[f"{name}.npy"] = value
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value)
    return path


def npy(header: str, values: bytes = b"") -> bytes:
    text = header.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + values


def dims(shape: str, kind: str = "<i8") -> bytes:
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}", bytes(80))


VOICES: dict[str, dict[str, bytes | np.ndarray]] = {
    "absurd dims": {"codes": dims("(10, 1000000000000)")},
    "dims beyond any number": {"codes": dims(f"({'9' * 400}, 1)")},
    "negative dims": {"codes": dims("(-1, -10)")},
    "texts for dims": {"codes": dims("('a', 1)")},
    "items of no size": {"codes": dims("(1000000000000,)", "|S0")},
    "an object array": {"texts": dims("(1,)", "|O")},
    "objects in a structure": {"codes": npy(
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", bytes(8))},
    "a header that is a program": {"codes": npy("__import__('os').system('id')")},
    "a deep header": {"codes": npy("(" * 5000)},
    "a header without an end": {"codes": npy("{'a': '''")},
    "an odd header": {"codes": npy("  {'a':\n\t1")},
    "no array": {"codes": b"hello"},
    "nothing": {"codes": b""},
    "another version": {"codes": b"\x93NUMPY\x09\x00" + bytes(100)},
    "too few values": {"codes": dims("(10, 100)")},
    "floats": {"codes": np.ones((10, 4))},
    "frames of text": {"frames": np.array(["a"])},
    "a frame": {"frames": np.array(4)},
    "other frames": {"frames": np.array([3])},
    "texts of bytes": {"texts": np.array([["a"], ["b"]])},
}  # fmt: skip


@pytest.mark.parametrize("name", VOICES)
def test_voice_files(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "a.npz", **VOICES[name])
    refused(path, "is not a voice file|was damaged or edited", VoiceFeatures.load)


def test_a_voice_file_that_unpacks_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("codes.npy", "w", force_zip64=True) as member,
    ):
        for _ in range(40):
            member.write(bytes(10**7))
    refused(path, r"unpacks to 400\.0 MB, expected at most 16\.8", VoiceFeatures.load)
    raw = path.read_bytes()  # the same, and its directory lies about it
    path.write_bytes(raw.replace(struct.pack("<I", 400_000_000), struct.pack("<I", 1000)))
    refused(path, "is not a voice file", VoiceFeatures.load)


@pytest.mark.parametrize("kind", ["many members", "LZMA", "encrypted", "truncated"])
def test_archives(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    packing = zipfile.ZIP_LZMA if kind == "LZMA" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packing) as archive:
        for number in range(20 if kind == "many members" else 1):
            archive.writestr(f"{number}.npy", b"x" * 100)
    raw = bytearray(path.read_bytes())
    if kind == "encrypted":
        raw[6] |= 1
        raw[raw.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw[:60] if kind == "truncated" else raw)
    refused(path, "is not a voice file", VoiceFeatures.load)


def test_what_save_writes_is_read_as_before(tmp_path: Path) -> None:
    VOICE.save(tmp_path / "a.npz")
    found = VoiceFeatures.load(tmp_path / "a.npz")
    assert (found.sha256, found.texts, found.frames) == (VOICE.sha256, ("words",), (4,))
    fortran = saved(tmp_path / "b.npz", codes=np.asfortranarray(VOICE.codes))
    np.testing.assert_array_equal(VoiceFeatures.load(fortran).codes, VOICE.codes)


def rate_of(path: Path, rate_hz: int) -> Path:
    """A FLAC file whose header says another rate: 20 bits at byte 18. Source: RFC 9639, 8.2."""
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 44100), 44100)
    raw = bytearray(path.read_bytes())
    raw[18:21] = ((rate_hz << 4) | raw[20] & 0xF).to_bytes(3, "big")
    path.write_bytes(raw)
    return path


def test_recordings_of_absurd_rates(tmp_path: Path) -> None:
    message = "655350 samples a second, expected 4000 to 192000"
    refused(rate_of(tmp_path / "a.flac", 655_350), message, read_recording)
    refused(rate_of(tmp_path / "b.flac", 1), "cannot be read", read_recording)


def test_many_channels_take_no_more_memory_than_one(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 8000, 8, "PCM_16") as file:
        for _ in range(200):
            file.write(np.full((8000, 8), 0.25))
    with bounded():
        assert read_recording(path).shape == (200 * 44100,)


def wav(path: Path, *chunks: tuple[bytes, int, bytes]) -> Path:
    body = b"".join(name + struct.pack("<I", size) + data for name, size, data in chunks)
    path.write_bytes(b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVE" + body)
    return path


def form(channels: int = 1, rate_hz: int = 44100, bytes_per_s: int = 88200) -> tuple:
    packed = struct.pack("<HHIIHH", 1, channels, rate_hz, bytes_per_s, 2 * channels & 0xFFFF, 16)
    return b"fmt ", 16, packed


@pytest.mark.parametrize(
    "chunks",
    [
        [form(bytes_per_s=2**32 - 1), (b"data", 0, bytes(1000))],
        [form(rate_hz=2**32 - 1), (b"data", 2**32 - 1, bytes(1000))],
        [form(channels=65535), (b"data", 2**31, bytes(1000))],
        [form(channels=0), (b"data", 1000, bytes(1000))],
        [(b"fmt ", 0, b""), (b"data", 0, b"")],
        [(b"fmt ", 2**32 - 1, b""), (b"data", 0, b"")],
        [(b"LIST", 0, b"")] * 200_000,
        [form(), (b"LIST", 2**32 - 1, b"")],
        [],
    ],
)
def test_wav_files_whose_headers_lie(tmp_path: Path, chunks: list) -> None:
    refused(wav(tmp_path / "a.wav", *chunks), "a.wav", read_recording)
