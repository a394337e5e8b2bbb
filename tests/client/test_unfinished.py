"""Files whose writer was stopped, and pipes: what is there can be played."""

import os
import resource
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.fake_server import FakeServer, chunk
from voicereel import Audio, InvalidRequest
from voicereel.audio import AudioWriter, read_recording

RATE_HZ = 44_100
NOISE = (np.random.default_rng(0).standard_normal(10 * RATE_HZ) * 0.1).astype(np.float32)
# Samples that an encoder may hold back: a block of FLAC, a page of Ogg, some frames of MP3.
HELD_BACK = {"wav": 0, "flac": 2 * 4096, "ogg": RATE_HZ, "mp3": 8 * 1152}


@pytest.mark.parametrize("suffix", HELD_BACK)
def test_what_is_there_can_be_played_at_any_time(tmp_path: Path, suffix: str) -> None:
    """A copy taken after each piece is what SIGKILL would leave."""
    path, copy = tmp_path / f"a.{suffix}", tmp_path / f"copy.{suffix}"
    writer = AudioWriter(path, RATE_HZ)
    for second in range(1, 7):
        writer.write(NOISE[(second - 1) * RATE_HZ : second * RATE_HZ])
        copy.write_bytes(path.read_bytes())
        back, _ = soundfile.read(copy, dtype="float32")
        assert second * RATE_HZ - HELD_BACK[suffix] <= len(back) <= second * RATE_HZ + 2 * 1152
        if suffix in ("wav", "flac"):
            np.testing.assert_allclose(back, NOISE[: len(back)], atol=1 / 32_000)
            assert soundfile.info(copy).frames == len(back)
    writer.close()
    finished, _ = soundfile.read(path)
    assert 6 * RATE_HZ <= len(finished) <= 6 * RATE_HZ + 3 * 1152


@pytest.mark.parametrize("suffix", HELD_BACK)
def test_pieces_make_the_same_file_as_the_whole(tmp_path: Path, suffix: str) -> None:
    Audio(NOISE, RATE_HZ, "stop").save(tmp_path / f"whole.{suffix}")
    soundfile.write(tmp_path / f"plain.{suffix}", NOISE[:0], RATE_HZ)
    with soundfile.SoundFile(tmp_path / f"plain.{suffix}", "w", RATE_HZ, 1) as file:
        for start in range(0, len(NOISE), RATE_HZ):
            file.write(NOISE[start : start + RATE_HZ])
    whole, plain = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("whole", "plain"))
    if suffix == "ogg":  # its serial number is drawn
        assert len(whole) == len(plain)
    else:
        assert whole == plain


@pytest.mark.parametrize("suffix", HELD_BACK)
def test_no_samples_make_a_file_too(tmp_path: Path, suffix: str) -> None:
    with AudioWriter(tmp_path / f"a.{suffix}", RATE_HZ) as writer:
        for piece in (NOISE[:0], NOISE[:100], NOISE[:0]):
            writer.write(piece)
    assert len(soundfile.read(tmp_path / f"a.{suffix}")[0]) >= 100
    Audio(NOISE[:0], RATE_HZ, "stop").save(tmp_path / f"b.{suffix}")
    assert (tmp_path / f"b.{suffix}").exists()


@contextmanager
def longest_file(size: int) -> Iterator[None]:
    """What a full disk does: no file may become longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", HELD_BACK)
def test_a_full_disk_leaves_what_fits(tmp_path: Path, suffix: str) -> None:
    path, size = tmp_path / f"a.{suffix}", 60_000
    with (
        longest_file(size),
        pytest.raises(InvalidRequest, match=r"cannot write .*MB are free there"),
        AudioWriter(path, RATE_HZ) as writer,
    ):
        for start in range(0, len(NOISE), 4410):
            writer.write(NOISE[start : start + 4410])
    assert path.stat().st_size <= size
    back, _ = soundfile.read(path, dtype="float32")
    least_s = {"wav": 0.6, "flac": 0.5, "ogg": 3, "mp3": 3}[suffix]
    assert len(back) >= least_s * RATE_HZ
    if suffix in ("wav", "flac"):
        np.testing.assert_allclose(back, NOISE[: len(back)], atol=1 / 32_000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suffix", "signals"),
    [("wav", ["SIGTERM", "SIGHUP", "SIGINT", "SIGKILL"]), ("flac", ["SIGTERM", "SIGKILL"])],
)
def test_a_stream_that_is_stopped_by_a_signal(
    fake: FakeServer, tmp_path: Path, suffix: str, signals: list[str]
) -> None:
    def endless(_):
        for index in range(100_000):
            yield chunk(index) | {"audio": noise.standard_normal((1, 64)).astype(np.float32) * 0.1}
            time.sleep(0.002)

    fake.answer, noise = endless, np.random.default_rng(0)
    statuses = {"SIGTERM": -15, "SIGHUP": -1, "SIGINT": 130, "SIGKILL": -9}
    running = {}
    for name in signals:
        path = tmp_path / f"{name}.{suffix}"
        command = ["say", "Hi", "--stream", "-o", path, "--url", fake.url]
        running[name] = subprocess.Popen(
            [sys.executable, "-m", "voicereel", *map(str, command)],
            stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    for name, process in running.items():
        path = tmp_path / f"{name}.{suffix}"
        deadline = time.monotonic() + 60
        while (not path.exists() or path.stat().st_size < 20_000) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, getattr(signal, name))
    for name, process in running.items():
        out, err = process.communicate(timeout=120)  # on a machine full of other work
        path = tmp_path / f"{name}.{suffix}"
        assert (process.returncode, out) == (statuses[name], ""), err
        assert "Traceback" not in err
        back, _ = soundfile.read(path, dtype="int16")
        assert len(back) >= 4096 and len(back) == soundfile.info(path).frames
        if name != "SIGKILL":
            assert f"{path} holds the first {len(back) / RATE_HZ:.2f} s only" in err
        if suffix == "wav":
            riff, data = (struct.unpack_from("<I", path.read_bytes(), at)[0] for at in (4, 40))
            assert (riff, data) == (36 + 2 * len(back), 2 * len(back))


LOST = """
import os, signal, time
from voicereel.cli import ending
ending._LONGEST_S = 0.3
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # here the exception comes, and Python only prints it
with ending._signals_raised():
    Deaf()
    print("goes on", flush=True)
    time.sleep(60)
"""


def test_a_signal_whose_exception_is_lost_still_ends_the_command() -> None:
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "goes on\n"), done.stderr
    assert "Exception ignored" in done.stderr and "Stopped: SIGTERM" in done.stderr


@pytest.mark.slow
def test_nohup_stays_in_force(fake: FakeServer, tmp_path: Path) -> None:
    def slow(_):
        yield chunk(0)
        time.sleep(1.0)
        yield chunk(1, is_last=True)

    fake.answer = slow
    path = tmp_path / "a.wav"
    command = ["say", "Hi", "--stream", "-o", path, "--url", fake.url]
    process = subprocess.Popen(
        ["nohup", sys.executable, "-m", "voicereel", *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not path.exists() or path.stat().st_size < 100:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGHUP)
    assert process.wait(30) == 0
    assert soundfile.info(path).frames == 100


def recorded(path: Path, chunks: bytes = b"", *, riff: int, data: int, after: bytes = b"") -> None:
    """A WAV file of a second of noise with these sizes in its header, and other chunks."""
    soundfile.write(path, NOISE[:RATE_HZ], RATE_HZ)
    raw = bytearray(path.read_bytes())
    struct.pack_into("<I", raw, 4, riff)
    struct.pack_into("<I", raw, 40, data)
    path.write_bytes(raw[:36] + chunks + raw[36:] + after)


LIST = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf60.16.100\0"


@pytest.mark.parametrize("chunks", [b"", LIST])
@pytest.mark.parametrize("data", [0, 0xFFFF_FFFF, 0x7FFF_FFDB])
@pytest.mark.parametrize("riff", [0, 8, 36, 36 + 2 * RATE_HZ, 0xFFFF_FFFF])
def test_a_recording_from_a_pipe(tmp_path: Path, riff: int, data: int, chunks: bytes) -> None:
    recorded(tmp_path / "a.wav", chunks, riff=riff, data=data)
    audio = read_recording(tmp_path / "a.wav")
    np.testing.assert_allclose(audio[:RATE_HZ], NOISE[:RATE_HZ], atol=1 / 32_000)
    assert len(audio) == RATE_HZ


def test_a_recording_that_is_empty_stays_so(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", NOISE[:0], RATE_HZ)
    empty = (tmp_path / "a.wav").read_bytes()
    for after in (b"", LIST):
        (tmp_path / "a.wav").write_bytes(empty + after)
        with pytest.raises(InvalidRequest, match="lasts 0 s"):
            read_recording(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a b.m4a", b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(100)),
     ("a.webm", b"\x1aE\xdf\xa3" + bytes(99)),
     ("a.wav", b"RIFF\0\0\0\0WAVEfmt "), ("a.aac", bytes(50)), ("b.wav", b"")],
)  # fmt: skip
def test_a_format_that_is_not_read_says_what_to_do(tmp_path: Path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest) as raised:
        read_recording(tmp_path / name)
    path = tmp_path / name
    quoted = f"'{path}'" if " " in name else path
    assert "WAV, FLAC, OGG (Vorbis, Opus), MP3 and AIFF are read" in str(raised.value)
    assert f"Convert others: ffmpeg -i {quoted} -ac 1 recording.wav" in str(raised.value)
