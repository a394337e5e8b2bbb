"""Whether a text has words to say: the server's rule, so that a call fails before any work."""

import unicodedata

from voicereel.errors import InvalidRequest

_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # Hangul fillers: letters by category, never seen
_SHOWN = 20  # characters of a text that an error repeats


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit of any script.

    The server has the same (ensemble/contract/text.py); a test holds the two equal.
    """
    return any(unicodedata.category(c)[0] in "LN" and c not in _BLANK_LETTERS for c in text)


def require_words(text: str, name: str) -> None:
    """Refuse a text without words.

    Raises:
        InvalidRequest: Names the text.
    """
    if not text.strip():
        raise InvalidRequest(f"{name} is empty, expected words to say")
    if not has_words(text):
        shown = ascii(text[:_SHOWN])
        raise InvalidRequest(f"{name} is {shown}, which has no letter or digit: no words to say")
