"""Brings a caller's recording into the state that a codec knows: silence cut, loudness ordinary.

Every door's recording passes here. A recording of ordinary loudness, with little silence around
it, comes out as it went in, bit for bit, so its codes stay what they were.
"""

import numpy as np

# Loudness is the median level of the voice, in dBFS (0 dB: RMS 1), without what is below 80 Hz.
# The demo voice is still right when alice.flac is 20 dB softer (at -40 dBFS), and is another
# person's at 30 dB; ordinary recordings are at -35 to -15 dBFS.
QUIET_DBFS = -40.0  # softer recordings are raised
TARGET_DBFS = -19.77  # to the level of assets/voices/alice.flac, since codes depend on the level
MAX_GAIN_DB = 45.0  # a voice below -65 dBFS is a few steps of 16 bits: raised, it is noise

LONGEST_SILENCE_S = 0.5  # silence before and after the voice that stays
KEPT_SILENCE_S = 0.25  # what stays of a longer one: a soft onset is shorter

_WINDOW_S, _HOP_S = 0.04, 0.02  # of a level: one vowel, or one burst of a plosive
_LOWEST_HZ = 80.0  # hum, rumble and a constant offset are below; so is no voice
_LOUD_FRAMES = 15  # the loudest 0.3 s: the median of these ignores one or two clicks
_VOICE_DB = 12.0  # frames so far below the loudest are the voice's vowels
_RANGE_DB = 60.0  # what is further below the loudest counts as silence, however low it is
_ABOVE_NOISE_DB = 8.0  # room noise varies by less from window to window; voice rises above
_RUN, _VOICED = 8, 5  # so many windows of so many in a row: 0.1 s of voice, more than a click
_SILENT_DBFS = -100.0  # 16 bits end at -98
_SMALL_OFFSET = 0.1  # of the voice's level: ordinary recordings have one, and codes depend on it
_MAX_CLIPPED = 5e-3  # share of samples: a click may be clipped, a voice not
_BLOCK = 4096  # windows that are transformed at a time, 58 MB at 44.1 kHz


def conditioned(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Cut long silence around a voice, and raise a recording that is too soft.

    Args:
        audio: float32 (samples,), mono, finite, at least 0.1 s.
        sample_rate: Hz.

    Returns:
        float32 (samples,): `audio` itself, or a part of it, or a louder copy within [-1, 1].

    Raises:
        ValueError: If it holds nothing that can be raised: silence, steady noise, a voice that is
            too soft or lies below louder sounds.
    """
    levels = _levels(audio, sample_rate)
    loudest, noise = _loudest(levels), _noise(levels)
    if loudest < _SILENT_DBFS:
        raise ValueError(
            "reference_audio is silent: nothing above 80 Hz is louder than "
            f"{_SILENT_DBFS:.0f} dBFS, expected a voice. Is it the right file, channel or "
            "microphone? Two channels of opposite sign cancel when they are mixed down."
        )
    begin, end = _voiced(levels, noise) if loudest > noise + _ABOVE_NOISE_DB else (0, len(levels))
    kept = audio[_cut(begin, end, len(audio), sample_rate)]
    level = _voice_level(levels[begin:end])
    if level >= QUIET_DBFS:
        return kept
    if loudest <= noise + _ABOVE_NOISE_DB:
        raise ValueError(
            f"reference_audio is soft ({level:.0f} dBFS) and steady: no voice rises above its "
            "noise. Record again, nearer to the microphone."
        )
    return _raised(kept, level)


def _raised(audio: np.ndarray, level: float) -> np.ndarray:
    gain = TARGET_DBFS - level
    if gain > MAX_GAIN_DB:
        raise ValueError(
            f"reference_audio is too soft: its voice is at {level:.0f} dBFS, expected "
            f"{TARGET_DBFS - MAX_GAIN_DB:.0f} or more. Record again, nearer to the microphone."
        )
    offset = audio.mean(dtype=np.float64)
    if abs(offset) < _SMALL_OFFSET * 10 ** (level / 20):
        offset = 0.0
    louder = (audio - offset) * 10 ** (gain / 20)
    if np.mean(np.abs(louder) > 1) > _MAX_CLIPPED:
        raise ValueError(
            f"reference_audio cannot be raised: its voice is at {level:.0f} dBFS, below louder "
            "sounds, such as hum. Remove these, or record again, nearer to the microphone."
        )
    return np.clip(louder, -1, 1).astype(np.float32)


def _levels(audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level above 80 Hz of every window, dBFS: float64 (windows,)."""
    size, hop = int(_WINDOW_S * sample_rate), int(_HOP_S * sample_rate)
    lowest = int(np.ceil(_LOWEST_HZ * _WINDOW_S)) + 1  # the window's own width is two bins
    shape = np.hanning(size)
    windows = np.lib.stride_tricks.sliding_window_view(audio, size)[::hop]
    powers = []
    for block in range(0, len(windows), _BLOCK):
        piece = windows[block : block + _BLOCK].astype(np.float64)
        piece -= piece.mean(axis=1, keepdims=True)
        spectrum = np.fft.rfft(piece * shape)[:, lowest:]
        powers.append((spectrum.real**2 + spectrum.imag**2).sum(axis=1))
    power = 2 * np.concatenate(powers) / (size * (shape**2).sum())
    return 10 * np.log10(power + 1e-30)


def _loudest(levels: np.ndarray) -> float:
    return float(np.median(np.sort(levels)[-_LOUD_FRAMES:]))


def _noise(levels: np.ndarray) -> float:
    """Level of the room: that of the quietest windows, pauses of the voice among them."""
    return max(float(np.percentile(levels, 5)), _loudest(levels) - _RANGE_DB)


def _voice_level(levels: np.ndarray) -> float:
    return float(np.median(levels[levels >= _loudest(levels) - _VOICE_DB]))


def _voiced(levels: np.ndarray, noise: float) -> tuple[int, int]:
    """Windows from the first to behind the last that are voice for 0.1 s; all if there is none."""
    active = levels > noise + _ABOVE_NOISE_DB
    counts = np.convolve(active, np.ones(_RUN), "valid") if len(active) >= _RUN else np.zeros(0)
    runs = np.flatnonzero(counts >= _VOICED)
    if not len(runs):
        return 0, len(levels)
    first, last = runs[0], runs[-1] + _RUN - 1
    return int(first + active[first:].argmax()), int(last + 1 - active[last::-1].argmax())


def _cut(begin: int, end: int, samples: int, sample_rate: int) -> slice:
    """The samples to keep around windows `begin` to `end`."""
    longest, kept = int(LONGEST_SILENCE_S * sample_rate), int(KEPT_SILENCE_S * sample_rate)
    hop, size = int(_HOP_S * sample_rate), int(_WINDOW_S * sample_rate)
    start, stop = begin * hop, (end - 1) * hop + size
    return slice(
        start - kept if start > longest else 0,
        stop + kept if samples - stop > longest else samples,
    )
