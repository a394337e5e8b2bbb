"""Recordings are brought into an ordinary state: loudness, silence around the voice, refusals."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ensemble.contract.recording import KEPT_SILENCE_S, TARGET_DBFS, conditioned
from ensemble.contract.reference import encoder_input
from support.facts import FACTS

RATE = 44_100
VOICES = sorted((Path(__file__).resolve().parents[2] / "assets" / "voices").glob("*.flac"))


def voice(name: str = "alice") -> np.ndarray:
    path = next(path for path in VOICES if path.stem == name)
    return soundfile.read(path, dtype="float32")[0]


def room(seconds: float, dbfs: float, colour: str = "white") -> np.ndarray:
    """Steady noise of one level: white, or falling with the frequency as rumble does."""
    noise = np.random.default_rng(1).normal(size=int(np.ceil(seconds)) * RATE)
    if colour == "brown":
        spectrum = np.fft.rfft(noise)
        spectrum /= np.maximum(np.fft.rfftfreq(len(noise), 1 / RATE), 20)
        noise = np.fft.irfft(spectrum, len(noise))
    return (noise / noise.std() * 10 ** (dbfs / 20)).astype(np.float32)[: int(seconds * RATE)]


def gain(audio: np.ndarray, decibels: float) -> np.ndarray:
    return (audio * 10 ** (decibels / 20)).astype(np.float32)


@pytest.mark.parametrize("path", VOICES, ids=lambda path: path.stem)
@pytest.mark.parametrize("decibels", [0, 3, -10, -18])
def test_an_ordinary_recording_stays_bit_for_bit(path, decibels) -> None:
    audio = gain(voice(path.stem), decibels)
    np.testing.assert_array_equal(conditioned(audio, RATE), audio)


@pytest.mark.parametrize("dbfs", [0.0, -20.0, -35.0])
@pytest.mark.parametrize("seconds", [0.1, 0.5, 3.0])
def test_steady_sound_of_ordinary_loudness_stays(dbfs, seconds) -> None:
    audio = room(seconds, dbfs)
    np.testing.assert_array_equal(conditioned(audio, RATE), audio)


@pytest.mark.parametrize("offset", [0.0, 0.3])
@pytest.mark.parametrize("decibels", [-30, -40, -43])
def test_a_soft_voice_is_raised_to_one_level(decibels, offset) -> None:
    """alice.flac is at that level, so it comes back as it was."""
    original = voice()
    raised = conditioned(gain(original, decibels) + np.float32(offset), RATE)
    assert raised.dtype == np.float32 and len(raised) == len(original)
    np.testing.assert_allclose(raised, original, atol=0.005 if offset else 2e-4)
    other = conditioned(gain(voice("bob"), decibels), RATE)
    assert np.abs(other).max() <= 1
    ratio_db = 20 * np.log10(other.std() / original.std())
    assert abs(ratio_db) < 1


def test_a_constant_offset_does_not_hide_a_soft_voice() -> None:
    """Nor does a click, or hum below 80 Hz: the level is the voice's."""
    soft = gain(voice(), -30)
    loud = {"offset": soft + 0.5, "click": soft.copy()}
    loud["click"][40_000:40_200] += 0.9
    for name, audio in loud.items():
        raised = conditioned(audio.astype(np.float32), RATE)
        level = 20 * np.log10(raised[60_000:].std() / voice()[60_000:].std())
        assert abs(level) < 1, name


def click(audio: np.ndarray) -> np.ndarray:
    audio = audio.copy()
    audio[RATE // 2 : RATE // 2 + 300] += 0.8
    return audio


TIME = np.arange(3 * RATE) / RATE
HUM = 0.5 * np.sin(2 * np.pi * 50 * TIME)


@pytest.mark.parametrize(
    ("audio", "why"),
    [
        (np.zeros(RATE), "is silent: nothing above 80 Hz is louder than -100 dBFS"),
        (np.full(RATE, 0.25), "is silent"),
        (gain(room(2, 0), -105), "is silent"),
        (0.5 * np.sin(2 * np.pi * 8 * TIME), "cannot be raised: its voice is at"),
        (voice() * 0, "cancel when they are mixed down"),
        (room(3, -60), r"is soft \(-60 dBFS\) and steady: no voice rises above its noise"),
        (room(3, -45) + 0.2, "steady"),
        (0.002 * np.sin(2 * np.pi * 440 * TIME), "steady"),
        (gain(voice(), -50), "too soft: its voice is at -70 dBFS, expected -65 or more"),
        (gain(voice(), -50) + 0.3, "too soft"),
        (gain(voice(), -35)[: len(HUM)] + HUM[: len(voice())], "below louder sounds, such as hum"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_what_cannot_be_raised_is_refused(audio, why) -> None:
    with pytest.raises(ValueError, match=f"reference_audio .*{why}"):
        conditioned(np.asarray(audio, np.float32), RATE)


@pytest.mark.parametrize("path", VOICES, ids=lambda path: path.stem)
@pytest.mark.parametrize("colour", ["white", "brown"])
@pytest.mark.parametrize("below_db", [15, 30, 45, 60, None])
def test_silence_around_a_voice_is_cut(path, colour, below_db) -> None:
    audio = voice(path.stem)
    long = np.pad(audio, 4 * RATE)
    if below_db is not None:
        long += room(len(long) / RATE, 20 * np.log10(audio.std()) - below_db, colour)
    kept = conditioned(long, RATE)
    start = (kept.ctypes.data - long.ctypes.data) // long.itemsize
    np.testing.assert_array_equal(long[start : start + len(kept)], kept)  # a part, unchanged
    before, after = 4 * RATE - start, start + len(kept) - 4 * RATE - len(audio)
    # Noise 15 dB below the voice covers its softest beginning and end; both margins reach further.
    assert 0.05 < before / RATE < KEPT_SILENCE_S + 0.06
    assert -0.2 < after / RATE < KEPT_SILENCE_S + 0.06


@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.45])
def test_short_silence_stays(seconds) -> None:
    audio = np.pad(voice("bob"), int(seconds * RATE))[: -int(seconds * RATE)]
    audio += room(len(audio) / RATE + 1, -70)[: len(audio)]
    np.testing.assert_array_equal(conditioned(audio, RATE), audio)


def test_a_soft_beginning_is_voice() -> None:
    audio = voice()
    audio[: int(0.9 * RATE)] *= 0.1  # 20 dB
    np.testing.assert_array_equal(conditioned(audio, RATE), audio)
    around = np.pad(audio, 2 * RATE)
    around += room(len(around) / RATE, -75)
    assert len(conditioned(around, RATE)) > len(audio) + 0.3 * RATE


def test_a_click_in_the_silence_is_no_voice() -> None:
    around = np.pad(voice(), 4 * RATE) + room(3.2 + 8, -65)[: len(voice()) + 8 * RATE]
    assert len(conditioned(click(around), RATE)) < len(voice()) + 0.6 * RATE


def test_a_soft_voice_with_silence_around_is_cut_and_raised() -> None:
    around = np.pad(gain(voice(), -30), 3 * RATE)
    around += room(len(around) / RATE + 1, -80)[: len(around)]
    kept = conditioned(around, RATE)
    assert abs(len(kept) / RATE - len(voice()) / RATE) < 0.6
    assert 20 * np.log10(kept.std() / voice().std()) == pytest.approx(0, abs=1)
    assert TARGET_DBFS > -25


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_codecs_of_other_rates(rate) -> None:
    tone = np.sin(2 * np.pi * 200 * np.arange(2 * rate) / rate)
    spoken = (0.2 * tone * np.sin(7 * np.arange(2 * rate) / rate) ** 2).astype(np.float32)
    np.testing.assert_array_equal(conditioned(spoken, rate), spoken)
    assert len(conditioned(np.pad(spoken, 3 * rate), rate)) < 2.6 * rate


def test_what_the_encoder_gets_is_conditioned_then_padded() -> None:
    long = np.pad(voice(), 4 * RATE)
    waveform, frames = encoder_input(long, RATE, FACTS)
    kept = conditioned(long, RATE)
    assert frames == -(-len(kept) // FACTS.samples_per_frame) < 85
    np.testing.assert_array_equal(waveform[: len(kept)], kept)
    with pytest.raises(ValueError, match="NaN"):
        encoder_input(long * np.nan, RATE, FACTS)
