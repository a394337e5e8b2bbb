"""What the codec's two models take at once: as much as the ensembles send, and nothing wider.

They are reached through ensembles, but anybody can call them, and whoever is served next waits
until a run is done. So the longest request that an ensemble makes is the limit.
"""

from collections.abc import Mapping

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.options import OPTIONS
from ensemble.contract.window import is_warm_up, refuse_windows

# New frames of the widest chunk that a caller may ask for.
WIDEST_CHUNK = int(next(o.high for o in OPTIONS if o.name == "max_chunk_frames"))


def refuse(model: str, arrays: Mapping[str, np.ndarray], facts: Facts) -> None:
    """Refuse what the checkpoint cannot mean, and more than an ensemble sends.

    Args:
        model: "fish_encoder" or "fish_decoder".
        arrays: Its inputs by name, with their batch axis.
        facts: The checkpoint's.

    Raises:
        ValueError: Says what came and what was expected.
    """
    _REFUSE[model](*(arrays[name] for name in _INPUTS[model]), facts)


def _refuse_windows(codes: np.ndarray, new_frames: np.ndarray, facts: Facts) -> None:
    if is_warm_up(codes, new_frames):
        return
    refuse_windows(
        codes, new_frames, facts.num_codebooks, facts.max_frames, sizes=facts.codebook_sizes
    )
    rows, _, frames = codes.shape
    limit = WIDEST_CHUNK + facts.history_frames
    if rows * frames > limit:
        raise ValueError(
            f"codes has {rows} rows of {frames} frames, expected {limit} frames in one request: "
            f"{WIDEST_CHUNK} new ones and {facts.history_frames} of history. Send several."
        )


def _refuse_recordings(waveform: np.ndarray, chunk_frames: np.ndarray, facts: Facts) -> None:
    rows, samples = waveform.shape
    frames, limit = -(-samples // facts.samples_per_frame), facts.max_reference_frames
    if not 1 <= rows * frames <= limit:
        raise ValueError(
            f"waveform has {rows} rows of {samples} samples, which is {rows * frames} frames, "
            f"expected 1 to {limit} in one request, as much as one recording may have."
        )
    if not 0 <= chunk_frames.min() <= chunk_frames.max() <= limit:
        raise ValueError(f"chunk_frames is {chunk_frames.ravel()}, expected 0 to {limit}.")
    if not np.isfinite(waveform).all():
        raise ValueError("waveform holds NaN or infinity, expected samples in [-1, 1].")


_INPUTS = {"fish_decoder": ("codes", "new_frames"), "fish_encoder": ("waveform", "chunk_frames")}
_REFUSE = {"fish_decoder": _refuse_windows, "fish_encoder": _refuse_recordings}
LIMITED = tuple(_REFUSE)
