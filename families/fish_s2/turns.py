"""Turns of a dialogue, marked `<|speaker:N|>` in the text, and how they are put into batches."""

import itertools
import re
from collections.abc import Iterable

from ensemble.contract.voice import PromptError

_TAG = re.compile(r"<\|speaker:(\d{1,9})\|>")  # a longer number is no speaker's: it is words
TURNS_PER_BATCH = 5  # upstream's, in `generate_long`
MAX_TURNS = 100  # of one text: some ten minutes, near the end of what a context holds


def speakers_in(text: str) -> list[int]:
    """Numbers of the speakers that a text names, in the order of their turns."""
    return [int(number) for number in _TAG.findall(text)]


def check_speakers(text: str, reference_texts: list[str]) -> None:
    """Refuse a dialogue whose speakers cannot be told apart, or that is too long.

    Args:
        text: What is to be spoken.
        reference_texts: Words of the recordings, each with the mark of its speaker.

    Raises:
        PromptError: Says which speaker, and what to do.
    """
    said = speakers_in(text)
    if len(said) > MAX_TURNS:
        raise PromptError(
            f"text has {len(said)} turns, expected at most {MAX_TURNS}. "
            "Send the rest as another request; the voices stay, what was said before is forgotten."
        )
    recorded = {number for words in reference_texts for number in speakers_in(words)}
    known = recorded or set(said)
    if known != set(range(len(known))):
        raise PromptError(
            f"the speakers are {_numbers(known)}, expected numbers from 0 on without a gap. "
            "Number them anew, in text and reference_text alike."
        )
    if lacking := set(said) - known:
        raise PromptError(
            f"text has turns of speaker {_numbers(lacking)}, but the recordings are of speaker "
            f"{_numbers(known)}. Give a recording whose reference_text begins with "
            f"<|speaker:{min(lacking)}|>, or leave all recordings out."
        )


def _numbers(numbers: set[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))


def tagged(text: str, speaker: int) -> str:
    """The text with a speaker in front, unless it names one anywhere."""
    return text if _TAG.search(text) else f"<|speaker:{speaker}|>{text}"


def words_of(turn: str) -> str:
    """What is said in a turn, without its tag."""
    return _TAG.sub("", turn)


def turns_of(text: str) -> tuple[str, list[str]]:
    """Cut a text into turns, each a tag and what follows it, stripped.

    Returns:
        Words before the first tag, and the turns.
    """
    begins = [match.start() for match in _TAG.finditer(text)]
    turns = [text[a:b].strip() for a, b in itertools.pairwise([*begins, len(text)])]
    return text[: begins[0] if begins else None].strip(), turns


def batched(turns: Iterable[str], max_bytes: int) -> list[str]:
    """Join turns, in order, into batches that are spoken one after another.

    Args:
        turns: At least one.
        max_bytes: Of a batch's turns in UTF-8, newlines not counted. A longer turn is a batch of
            its own, never cut.
    """
    batches: list[list[str]] = []
    size = 0
    for turn in turns:
        length = len(turn.encode())
        if not batches or len(batches[-1]) == TURNS_PER_BATCH or size + length > max_bytes:
            batches.append([])
            size = 0
        batches[-1].append(turn)
        size += length
    return ["\n".join(batch) for batch in batches]
