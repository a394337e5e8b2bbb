"""Whether a text has words to say: the server's rule, so that a call fails before any work."""

import unicodedata
from typing import Any

from voicereel.errors import InvalidRequest
from voicereel.text import checked_text

_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # Hangul fillers: letters by category, never seen
_SHOWN = 20  # characters of a text that an error repeats


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit of any script.

    The server has the same (ensemble/contract/text.py); a test holds the two equal.
    """
    return any(unicodedata.category(c)[0] in "LN" and c not in _BLANK_LETTERS for c in text)


def require_words(text: Any, what: str) -> str:
    """The text, if it can be sent and has words.

    Raises:
        InvalidRequest: If not; names the text.
    """
    if not checked_text(text, what).strip():
        raise InvalidRequest(f"{what} is empty, expected words to say")
    if not has_words(text):
        shown = ascii(text[:_SHOWN])
        raise InvalidRequest(f"{what} is {shown}, which has no letter or digit: no words to say")
    return text
