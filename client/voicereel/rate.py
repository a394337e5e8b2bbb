"""Whether speech fits its text: letters a second, against what the checkpoint can speak."""

import re
import unicodedata

# A sign of Chinese, Japanese or Korean is a syllable, about three letters; a digit is a word.
_LETTERS_OF_A_SYLLABLE, _LETTERS_OF_A_DIGIT = 3, 4
# Directions to the model, "(whispering) Yes." and "<|speaker:0|>Yes.", may be spoken or not.
_DIRECTION = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<\|[^|]*\|>")
_SHOWN = 40  # characters of the text that a warning repeats
_PAUSE_S = 1.0  # silence that speech may hold however short it is


def letters(text: str) -> int:
    """How long a text is to say: letters, where syllabic signs and digits count for several."""
    return sum(map(_weight, text))


def rate_warning(text: str, audio_s: float, letters_per_s: tuple[float, float]) -> str | None:
    """What is wrong if speech is impossibly fast or slow for its text, else None.

    Args:
        text: What was to be said.
        audio_s: Seconds of the speech.
        letters_per_s: The slowest and the fastest that the checkpoint speaks.
    """
    slowest, fastest = letters_per_s
    least, most = letters(_DIRECTION.sub("", text)), letters(text)
    if least > fastest * audio_s:
        what, rate = "too short: words are missing", least
    elif audio_s > _PAUSE_S + most / slowest:
        what, rate = "too long: words may be repeated, or others than asked for", most
    else:
        return None
    per_second = f"{rate / audio_s:.0f} letters a second" if audio_s else "no audio"
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
    return f"{shown!r} is {what} ({per_second}, expected {slowest:g} to {fastest:g})"


def _weight(character: str) -> int:
    category = unicodedata.category(character)
    if category == "Nd":
        return _LETTERS_OF_A_DIGIT
    if category[0] not in "LN":
        return 0
    return _LETTERS_OF_A_SYLLABLE if unicodedata.east_asian_width(character) == "W" else 1
