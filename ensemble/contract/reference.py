"""A caller's recording becomes what the encoder takes: checked, conditioned, padded."""

import math

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.recording import conditioned

MIN_SECONDS = 0.1  # two frames: less cannot hold a voice
MAX_PEAK = 4.0  # 12 dB above full scale: louder samples are integers that were not scaled
BUCKET_FRAMES = 32  # about 1.5 s: recordings padded to a multiple of it can share a batch
CHUNK_FRAMES = 64  # about 3 s, encoded at a time unless the request asks for another size


def chunk_frames(chunk_size_s: float | None, facts: Facts) -> int:
    """Frames that the encoder takes at a time, at most all that a recording can have.

    Raises:
        ValueError: If it is not above 0.
    """
    if chunk_size_s is None:
        return CHUNK_FRAMES
    if not chunk_size_s > 0:
        raise ValueError(f"chunk_size_s is {chunk_size_s:g}, expected seconds above 0.")
    return math.ceil(min(chunk_size_s / facts.seconds(1), facts.max_reference_frames))


def encoder_input(
    audio: np.ndarray, sample_rate: int | None, facts: Facts
) -> tuple[np.ndarray, int]:
    """Check a recording, bring it into an ordinary state (`conditioned`), and pad it.

    Arguments and results are those of `padded_reference`.

    Raises:
        ValueError: If it is no recording the encoder can take, or holds no voice.
    """
    _check(audio, sample_rate, facts)
    return padded_reference(conditioned(audio, facts.sample_rate), sample_rate, facts)


def padded_reference(
    audio: np.ndarray, sample_rate: int | None, facts: Facts
) -> tuple[np.ndarray, int]:
    """Check a recording and pad it with zeros; the codec is causal, so codes do not change.

    Args:
        audio: float32 (samples,), mono, in [-1, 1].
        sample_rate: The sample rate that the caller states, Hz; None if it states none.
        facts: The checkpoint's.

    Returns:
        float32 (padded samples,), and the number of frames that are not padding.

    Raises:
        ValueError: If it is no recording the encoder can take.
    """
    _check(audio, sample_rate, facts)
    frame = facts.samples_per_frame
    frames = -(-len(audio) // frame)
    padded = bucket(frames, facts)
    return np.pad(audio, (0, padded * frame - len(audio))), frames


def bucket(frames: int, facts: Facts) -> int:
    """Frames of a recording with its padding."""
    return min(-(-frames // BUCKET_FRAMES) * BUCKET_FRAMES, facts.max_reference_frames)


def _check(audio: np.ndarray, sample_rate: int | None, facts: Facts) -> None:
    rate = facts.sample_rate
    if sample_rate is not None and sample_rate != rate:
        raise ValueError(
            f"reference_sample_rate is {sample_rate} Hz, expected {rate}. "
            "Resample the recording (voicereel.Client does)."
        )
    _check_samples(audio, rate)
    frames = -(-len(audio) // facts.samples_per_frame)
    limit = min(facts.max_reference_frames, facts.max_prompt_length)
    if frames > limit:
        raise ValueError(
            f"reference_audio lasts {len(audio) / rate:.1f} s, expected at most "
            f"{facts.seconds(limit):.1f} s, which is what the prompt can hold, less one frame for "
            "each piece of text. Cut it: 5 to 30 s are enough for a voice."
        )


def _check_samples(audio: np.ndarray, rate: int) -> None:
    if audio.ndim != 1 or len(audio) < MIN_SECONDS * rate:
        raise ValueError(
            f"reference_audio has {audio.size} samples, expected at least "
            f"{int(MIN_SECONDS * rate)} ({MIN_SECONDS:g} s), better 5 to 30 s."
        )
    if not np.isfinite(audio).all():
        raise ValueError("reference_audio holds NaN or infinity, expected samples in [-1, 1].")
    peak = float(np.abs(audio).max())
    if peak > MAX_PEAK:
        raise ValueError(
            f"reference_audio peaks at {peak:g}, expected samples in [-1, 1]. "
            "Divide integer samples by their full scale."
        )
