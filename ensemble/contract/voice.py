"""A voice as it comes over the wire, and as a family's prompt builder takes it."""

from dataclasses import dataclass

import numpy as np

from ensemble.contract.facts import Facts
from ensemble.contract.reference import bucket


class PromptError(ValueError):
    """The text cannot be spoken in that voice; the message says why and what to do."""


@dataclass(frozen=True)
class Reference:
    """One recording of a voice.

    Attributes:
        text: The words spoken in it.
        codes: int (codebooks, frames).
    """

    text: str
    codes: np.ndarray


def codes_from_flat(flat: np.ndarray, frames: np.ndarray | None, facts: Facts) -> np.ndarray:
    """Codes that have lost their shape, as Triton's HTTP generate extension gives them.

    Args:
        flat: int64 (numbers,): answers of fish_encode one after the other, each (codebooks, frames)
            row by row, with its padding or without.
        frames: int32 (references,), frames of each that are no padding; None if there is one,
            without padding.
        facts: The checkpoint's.

    Returns:
        int64 (codebooks, frames), all references side by side, without padding.

    Raises:
        PromptError: If the numbers are not so many.
    """
    books = facts.num_codebooks
    counts = [len(flat) // books] if frames is None else [int(n) for n in frames]
    widths = [bucket(n, facts) for n in counts]
    if len(counts) == 1 or books * sum(widths) != len(flat):
        widths = counts if len(counts) != 1 else [len(flat) // books]
    fits = all(0 < n <= width for n, width in zip(counts, widths, strict=True))
    if not fits or books * sum(widths) != len(flat):
        raise PromptError(
            f"codes has {len(flat)} numbers for reference_frames {counts}, expected {books} rows "
            "of that many frames each. Send what fish_encode answered: codes, reference_frames "
            "and checkpoint_id."
        )
    blocks = np.split(flat, np.cumsum([books * width for width in widths])[:-1])
    return np.concatenate(
        [block.reshape(books, -1)[:, :n] for block, n in zip(blocks, counts, strict=True)], axis=1
    )


def references_from(
    texts: list[str], codes: np.ndarray | None, frames: np.ndarray | None
) -> list[Reference]:
    """Split what a request says of one voice into its references.

    Args:
        texts: Words of each reference.
        codes: int64 (codebooks, frames), all references one after the other; padding may follow.
        frames: int32 (references,), frames of each; None if there is one, without padding.

    Raises:
        PromptError: If they do not fit together.
    """
    if codes is None:
        codes = np.zeros((0, 0), np.int64)
    available = codes.shape[1]
    counts = (
        [available]
        if frames is None and available
        else [int(n) for n in (() if frames is None else frames)]
    )
    if len(texts) != len(counts):
        raise PromptError(
            f"reference_text has {len(texts)} texts for {len(counts)} recordings, expected one "
            "each. A voice needs reference_codes and the words spoken in them, or neither."
        )
    if any(n < 1 for n in counts) or sum(counts) > available:
        raise PromptError(
            f"reference_frames is {counts}, expected positive counts that add up to at most the "
            f"{available} frames of reference_codes."
        )
    ends = np.cumsum(counts)
    return [
        Reference(text, codes[:, end - count : end])
        for text, count, end in zip(texts, counts, ends, strict=True)
    ]
