"""A caller's recording, checked and padded for the encoder."""

import numpy as np

from ensemble.facts import Facts

MIN_SECONDS = 0.1  # shorter holds no voice
BUCKET_FRAMES = 32  # about 1.5 s: recordings padded to a multiple of it can be encoded together


def padded_reference(
    audio: np.ndarray, sample_rate: int | None, facts: Facts
) -> tuple[np.ndarray, int]:
    """Check a recording and fill it up with zeros; the codec is causal, so codes do not change.

    Args:
        audio: float32 (samples,), mono, in [-1, 1].
        sample_rate: What the caller says it is, Hz; None if nothing was said.
        facts: Of the checkpoint.

    Returns:
        float32 (padded samples,), and the number of frames that are not padding.

    Raises:
        ValueError: If it is no recording the encoder can take.
    """
    rate, frame = facts.sample_rate, facts.samples_per_frame
    if sample_rate is not None and sample_rate != rate:
        raise ValueError(
            f"reference_sample_rate is {sample_rate} Hz, expected {rate}. "
            "Resample the recording (voicereel.Client does)."
        )
    if audio.ndim != 1 or len(audio) < MIN_SECONDS * rate:
        raise ValueError(
            f"reference_audio has {audio.size} samples, expected at least "
            f"{int(MIN_SECONDS * rate)} ({MIN_SECONDS:g} s), better 5 to 30 s."
        )
    if not np.isfinite(audio).all():
        raise ValueError("reference_audio holds NaN or infinity, expected samples in [-1, 1].")
    peak = float(np.abs(audio).max())
    if peak > 4.0:
        raise ValueError(
            f"reference_audio peaks at {peak:g}, expected samples in [-1, 1]. "
            "Divide integer samples by their full scale."
        )
    frames = -(-len(audio) // frame)
    limit = min(facts.max_reference_frames, facts.max_prompt_length)
    if frames > limit:
        raise ValueError(
            f"reference_audio lasts {len(audio) / rate:.1f} s, expected at most "
            f"{limit * frame / rate:.1f} s. Cut it: 5 to 30 s are enough for a voice."
        )
    padded = min(-(-frames // BUCKET_FRAMES) * BUCKET_FRAMES, facts.max_reference_frames)
    return np.pad(audio, (0, padded * frame - len(audio))), frames
