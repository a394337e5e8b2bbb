"""Reading recordings of every kind, and writing what was spoken."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from voicereel import Audio, InvalidRequest
from voicereel.audio import MAX_RECORDING_S, read_recording

TONE_HZ = 440


def tone(rate_hz: int, duration_s: float, channels: int) -> np.ndarray:
    time = np.arange(int(rate_hz * duration_s)) / rate_hz
    return np.repeat(0.5 * np.sin(2 * np.pi * TONE_HZ * time)[:, None], channels, axis=1)


@pytest.mark.parametrize(
    ("suffix", "rate_hz", "channels"),
    [
        ("wav", 8_000, 1),
        ("wav", 44_100, 2),
        ("wav", 96_000, 6),
        ("flac", 11_025, 2),
        ("ogg", 22_050, 1),
        ("mp3", 48_000, 2),
    ],
)
def test_any_recording_becomes_mono_44100(
    tmp_path: Path, suffix: str, rate_hz: int, channels: int
) -> None:
    path = tmp_path / f"voice.{suffix}"
    soundfile.write(path, tone(rate_hz, 1.0, channels), rate_hz)
    audio = read_recording(path)
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) == pytest.approx(44_100, abs=2500 if suffix == "mp3" else 2)
    spectrum = np.abs(np.fft.rfft(audio[:44_100]))
    assert np.argmax(spectrum) == pytest.approx(TONE_HZ, abs=2)
    assert np.abs(audio[10_000:30_000]).max() == pytest.approx(0.5, abs=0.05)


def test_loud_float_recordings_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(path, tone(44_100, 0.5, 1) * 4, 44_100, subtype="FLOAT")
    audio = read_recording(path)
    np.testing.assert_allclose(audio, tone(44_100, 0.5, 1)[:, 0] * 2, atol=1e-4)


def test_unusable_recordings_are_named(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InvalidRequest, match=message) as caught:
            read_recording(tmp_path / name)
        assert name in str(caught.value)

    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "voice.raw").write_bytes(bytes(1000))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 44_100)
    soundfile.write(tmp_path / "short.wav", np.zeros(4000), 44_100)
    soundfile.write(tmp_path / "long.flac", np.zeros(int(8000 * (MAX_RECORDING_S + 5))), 8000)
    soundfile.write(tmp_path / "nan.wav", np.full(44_100, np.nan), 44_100, subtype="FLOAT")
    refused("missing.wav", "no such file")
    (tmp_path / "folder").mkdir()
    refused("folder", "Is a directory")
    refused("text.wav", "cannot be read as audio")
    refused("voice.raw", "cannot be read as audio")
    refused("empty.wav", "lasts 0 s")
    refused("short.wav", r"lasts 0\.0907 s, expected 0\.1 to 300 s")
    refused("long.flac", "lasts more s")
    refused("nan.wav", "NaN")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "MP3"])
def test_save(tmp_path: Path, suffix: str) -> None:
    waveform = tone(44_100, 2.5, 1)[:, 0].astype(np.float32)
    path = tmp_path / f"out.{suffix}"
    Audio(waveform, 44_100, "stop").save(path)
    back, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == 44_100
    lossless = suffix in ("wav", "flac")
    assert len(back) == pytest.approx(len(waveform), abs=0 if lossless else 2500)
    if lossless:
        np.testing.assert_allclose(back, waveform, atol=1 / 32_000)


def test_save_clips_what_is_too_loud(tmp_path: Path) -> None:
    Audio(np.array([-3, -1, 0, 1, 3], np.float32), 44_100, "stop").save(tmp_path / "out.wav")
    back, _ = soundfile.read(tmp_path / "out.wav", dtype="int16")
    np.testing.assert_allclose(back, [-32768, -32768, 0, 32767, 32767], atol=1)


def test_save_names_what_it_cannot_write(tmp_path: Path) -> None:
    audio = Audio(np.zeros(10, np.float32), 44_100, "stop")
    with pytest.raises(InvalidRequest, match=r"\.wav, \.flac, \.ogg, \.mp3"):
        audio.save(tmp_path / "out.aac")
    with pytest.raises(InvalidRequest, match="cannot write"):
        audio.save(tmp_path / "nowhere" / "out.wav")
