"""Files that are made to hurt: refused with the line at fault, in little time and memory."""

import io
import itertools
import os
import resource
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from voicereel import InvalidRequest, VoiceFeatures, load_script
from voicereel.audio import read_recording
from voicereel.library import VoiceLibrary
from voicereel.text import MAX_BYTES, read_text

VOICE = VoiceFeatures(np.ones((10, 4), np.int64), (4,), ("words",), "x")


@pytest.fixture(autouse=True)
def bounded():
    """Every refusal takes less than this."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - begin < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def refused(path: Path, message: str, read: Callable = load_script) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        read(path)
    assert len(str(caught.value)) < 500
    assert path.name in str(caught.value)


SEGMENT = "- {speaker_id: A, text: Hello.}\n"
YAML = {
    "!!timestamp x": "'x' is no timestamp",
    "!!int _": "'_' is no int",
    "!!bool x": "'x' is no bool",
    "!!float x": "'x' is no float",
    "!!binary '*'": "expected a valid integer",
    "!!set x": "expected a mapping|not enough values",
    "!!omap x": "expected a sequence",
    "!!pairs [1]": "expected a mapping",
    "!!str [1]": "expected a scalar",
    "!!python/object/apply:os.system [id]": "could not determine a constructor",
    "!!python/name:os.system x": "could not determine a constructor",
    "9" * 5000: "has 5000 characters",
    "1" + ":1" * 5000: "has 10001 characters",
    "0x" + "f" * 200: "has 202 characters",
    "2026-99-99": "is no timestamp",
    '"\\ud800"': "expected a valid integer",
    "{? [a] : b}": "unhashable|found",
    "*nobody": "undefined alias",
}


@pytest.mark.parametrize("value", YAML)
def test_yaml_values(tmp_path: Path, value: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"{SEGMENT}- speaker_id: B\n  text: Bye.\n  options: {{seed: {value}}}\n")
    refused(path, rf"line [24].*({YAML[value]})")


def laughs() -> str:
    names = "abcdefghij"
    merged = "".join(
        f"- &{new} {{<<: [{', '.join([f'*{old}'] * 10)}], {new}: 1}}\n"
        for old, new in itertools.pairwise(names)
    )
    return "- &a {" + ", ".join(f"k{i}: 1" for i in range(20)) + "}\n" + merged


SCRIPTS = {
    "merges.yaml": (laughs(), "line 3: .*a mapping has .* entries"),
    "itself.yaml": ("- &a [*a]\n", "line 1: .*recursive"),
    "itself_in.yaml": ("- &a {speaker_id: A, text: x, options: *a}\n", "line 1: .*recursive"),
    "itself_merged.yaml": ("- &a {<<: *a, text: x}\n", r"segment 1 \(line 1\)"),
    "deep.yaml": (SEGMENT + "- " + "[" * 100_000, "line 2: .*nested deeper than 32"),
    "deep_block.yaml": ("- " * 5000 + "x", "line 1: .*nested deeper than 32"),
    "nul.yaml": (SEGMENT + "\n- \0", "line 3: it is no text: it holds NUL bytes"),
    "control.yaml": (SEGMENT + "\n- \x07", "line 3: "),
    "long.yaml": ("- " + "x" * 2_100_000, "expected at most 2000000 of YAML"),
    "deep.json": ("[\n" + "[" * 1_000_000, "line 2: .*nested deeper than 32"),
    "quotes.json": ('["' + '\\"' * 1_000_000, "line 1: expected JSON"),
    "digits.json": (
        '[{"speaker_id": "A", "text": "x"},\n {"speaker_id": "A", "text": "x",\n "options": '
        f'{{"seed": {"9" * 5000}}}}}]', "line 3: a number has 5000 digits",
    ),
    "exponent.json": (
        '[{"speaker_id": "A", "text": "x", "options": {"temperature": 1e999}}]', "line 1.*inf",
    ),
    "nan.json": ('[{"speaker_id": "A", "text": "x", "silence_after_s": NaN}]', "line 1.*finite"),
    "nul.json": ("[\n\0]", "line 2: it is no text"),
    "many.json": ("[" + "1," * 1_000_000 + "1]", "1000001 segments, expected at most"),
    "nul.txt": ("A: x\nB: \0", "line 2: it is no text"),
    "line.txt": ("A: " + "x " * 1_000_000, "line 1: a segment has 2000000 characters|line 1"),
    "lines.txt": ("A: x\n" + " and so on\n" * 100_000, "a segment has .* characters up to here"),
    "cues.srt": ("00:00:01,000 --> 00:00:02,000\nand so on\n\n" * 30_000, "a segment has .* chara"),
    "tags.srt": ("00:00:01,000 --> 00:00:02,000\n" + "<1" * 1_000_000, "no cues|a segment has"),
    "voices.vtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\n" + "<v a" * 500_000, "a segment has|no cu"),
    "braces.vtt": ("WEBVTT\n\n00:01.000 --> 00:02.000\n" + "{\\" * 900_000, "a segment has|no cu"),
}  # fmt: skip


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts(tmp_path: Path, name: str) -> None:
    text, message = SCRIPTS[name]
    path = tmp_path / name
    path.write_text(text)
    refused(path, message)


@pytest.mark.parametrize("read", [load_script, read_text, read_recording, VoiceFeatures.load])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to a device", "NUL", "missing"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, read: Callable, kind: str) -> None:
    path = tmp_path / "a.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "NUL":
        path = Path("a\0b")
    with pytest.raises(InvalidRequest):
        read(path)


@pytest.mark.parametrize("read", [load_script, VoiceFeatures.load])
def test_a_file_without_an_end(tmp_path: Path, read: Callable) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(10**12)
    refused(tmp_path / "huge", r"has 1000000\.0 MB, expected at most 8\.0", read)
    assert MAX_BYTES == 8e6


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


@pytest.fixture
def library(tmp_path: Path) -> VoiceLibrary:
    kept = VoiceLibrary(tmp_path / "voices")
    kept.add("Alice", VOICE)
    VOICE.save(tmp_path / "outside.npz")
    return kept


@pytest.mark.parametrize(
    "name", ["../outside", "../outside.npz", "/etc/passwd", "..", "a/b", "a\0"]
)
def test_a_name_is_no_path(library: VoiceLibrary, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no voice"):
        library.named(name)
    with pytest.raises(InvalidRequest, match=r"voice .*: it"):
        library.path_of(name)


def test_a_link_out_of_the_folder_is_no_voice(library: VoiceLibrary, tmp_path: Path) -> None:
    (library.folder / "Link.npz").symlink_to(tmp_path / "outside.npz")
    (library.folder / "Circle.npz").symlink_to("Circle.npz")
    (library.folder / "Within.npz").symlink_to("Alice.npz")
    os.mkfifo(library.folder / "Pipe.npz")
    assert library.names() == ["Alice", "Within"]
    assert "Link" not in library
    before = (tmp_path / "outside.npz").read_bytes()
    (library.folder / "Bob.new").symlink_to(tmp_path / "outside.npz")
    library.add("Bob", VOICE + VOICE)
    assert (tmp_path / "outside.npz").read_bytes() == before


def test_a_script_names_voices_and_no_files(
    library: VoiceLibrary, tmp_path: Path, monkeypatch
) -> None:
    from support.command_line import run

    monkeypatch.setenv("VOICEREEL_VOICES", str(library.folder))
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "a.json"
    script.write_text('[{"speaker_id": "outside.npz", "text": "x"}]')
    code, _, err = run("script", str(script), "-o", "out.wav", "--url", "127.0.0.1:1")
    assert code == 2 and "no voice 'outside.npz'" in err
