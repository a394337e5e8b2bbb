"""Encoders and what lies in front of them: streams equal the whole, and decode to what went in."""

import hashlib
import io

import av
import numpy as np
import pytest
import soundfile
import soxr

from gateway.formats import FORMATS
from gateway.sound import Shape, Tempo, Track, encoded
from support.fake_server import RATE_HZ
from support.gateway import tone
from voicereel import AudioChunk

SPLITS = ([44_100], [2205], [16_384, 7, 1, 12_000], [1000, 0, 3000])
# Seconds that a codec adds at the beginning and end, at most.
PADDING = {"mp3": 0.07, "aac": 0.07}


def sounds(waveform: np.ndarray, sizes: list[int]) -> list[AudioChunk]:
    found, position = [], 0
    while position < len(waveform):
        size = sizes[len(found) % len(sizes)]
        found.append(AudioChunk(waveform[position : position + size], len(found), False, RATE_HZ,
                                ""))  # fmt: skip
        position += size
    return found


def made(shape: Shape, waveform: np.ndarray, sizes: list[int]) -> list[bytes]:
    return [piece.data for piece in encoded(sounds(waveform, sizes), Track(shape))]


def decoded(format: str, data: bytes, rate_hz: int) -> np.ndarray:
    """int16 samples, by FFmpeg's libraries (pcm by NumPy)."""
    if format == "pcm":
        return np.frombuffer(data, "<i2")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        # Opus is decoded at 48 kHz, whatever it was made from.
        assert stream.rate == (48_000 if format == "opus" else rate_hz) and stream.channels == 1
        to_s16 = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
        frames = [to for frame in container.decode(stream) for to in to_s16.resample(frame)]
    return np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])


def levels(waveform: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(waveform, -1, 1) * 32767).astype(np.int16)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("speed", [1.0, 1.7])
def test_a_stream_is_the_whole_however_it_is_cut(format: str, speed: float) -> None:
    shape = Shape(format, FORMATS[format].default_rate_hz, speed)
    streams = [made(shape, tone(1.0), sizes) for sizes in SPLITS]
    assert len({b"".join(stream) for stream in streams}) == 1
    assert min(map(len, streams)) >= 1 and len(streams[1]) > 10  # pieces come as they are made


@pytest.mark.parametrize("format", FORMATS)
def test_decoded_again_it_is_what_went_in(format: str) -> None:
    rate_hz = FORMATS[format].default_rate_hz
    data = b"".join(made(Shape(format, rate_hz), tone(1.5), [9000]))
    heard = decoded(format, data, rate_hz)
    expected = tone(1.5) if rate_hz == RATE_HZ else soxr.resample(tone(1.5), RATE_HZ, rate_hz)
    if FORMATS[format].is_exact:
        np.testing.assert_array_equal(heard, levels(expected))
        return
    assert 0 <= len(heard) / rate_hz - 1.5 <= PADDING.get(format, 0)
    body = heard[rate_hz // 4 : rate_hz].astype(float)
    spectrum = np.abs(np.fft.rfft(body * np.hanning(len(body))))
    assert abs(spectrum.argmax() * rate_hz / len(body) - 220) < 2
    # Without a click: no step between samples that the tone does not have.
    assert np.abs(np.diff(body)).max() < 1.3 * np.abs(np.diff(levels(expected).astype(float))).max()


@pytest.mark.parametrize("format", FORMATS)
def test_the_first_piece_is_audio(format: str) -> None:
    """Eight frames, the model's first chunk, leave more than a header."""
    track = Track(Shape(format, FORMATS[format].default_rate_hz))
    first = track.feed(sounds(tone(1.0), [16_384])[0])
    assert len(decoded(format, first, track.shape.rate_hz)) > 0.2 * track.shape.rate_hz


def test_a_streamed_wav_has_one_header_of_44_bytes_without_sizes() -> None:
    pieces = made(Shape("wav", 24_000), tone(0.5), [2205])
    assert pieces[0][:4] == b"RIFF" and pieces[0][36:40] == b"data"
    assert pieces[0][4:8] == pieces[0][40:44] == b"\xff" * 4
    assert not any(b"RIFF" in piece for piece in pieces[1:])
    assert len(b"".join(pieces)) == 44 + 2 * 12_000


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_whole_answer_has_true_sizes(format: str) -> None:
    rate_hz = FORMATS[format].default_rate_hz
    [whole] = made(Shape(format, rate_hz, whole=True), tone(0.5), [2205])
    samples, rate = soundfile.read(io.BytesIO(whole), dtype="int16")
    assert (len(samples), rate) == (rate_hz // 2, rate_hz)
    streamed = b"".join(made(Shape(format, rate_hz), tone(0.5), [9000]))
    np.testing.assert_array_equal(decoded(format, streamed, rate_hz), samples)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("rate_hz", [8000, 16_000, 48_000])
def test_every_rate_can_be_had(format: str, rate_hz: int) -> None:
    data = b"".join(made(Shape(format, rate_hz), tone(0.5), [9000]))
    heard = len(decoded(format, data, rate_hz)) / rate_hz
    exact = 0.002 if format == "opus" else 0  # the test resamples it back
    assert 0.5 - exact <= heard <= 0.5 + 0.4 * (format in PADDING)  # frames of 8 kHz are long


@pytest.mark.parametrize("speed", [0.25, 0.5, 0.9, 1.5, 4.0])
def test_speed_changes_the_tempo_and_not_the_pitch(speed: float) -> None:
    tempo = Tempo(RATE_HZ, speed)
    waveform = tone(2.0)
    heard = np.concatenate([tempo.feed(waveform[:30_000]), tempo.feed(waveform[30_000:]),
                            tempo.finish()])  # fmt: skip
    assert len(heard) / RATE_HZ == pytest.approx(2 / speed, abs=0.06)
    body = heard[2000:-2000]
    spectrum = np.abs(np.fft.rfft(body * np.hanning(len(body))))
    assert spectrum.argmax() * RATE_HZ / len(body) == pytest.approx(220, abs=4)


def test_louder_than_full_scale_is_clipped_and_never_wraps() -> None:
    loud = np.array([1.5, -1.5, 1.0, -1.0, 0.0], np.float32)
    [data] = made(Shape("pcm", RATE_HZ), loud, [5])
    assert np.frombuffer(data, "<i2").tolist() == [32767, -32767, 32767, -32767, 0]


def test_a_track_counts_and_hashes_what_leaves() -> None:
    track = Track(Shape("pcm", 22_050, speed=2.0))
    data = b"".join(piece.data for piece in encoded(sounds(tone(1.0), [5000]), track))
    assert track.sha256 == hashlib.sha256(data).hexdigest()
    assert track.samples == len(data) // 2 and track.heard_s == pytest.approx(1.0)
    assert track.seconds == track.samples / 22_050
