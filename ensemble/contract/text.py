"""A caller's text, before the tokenizer: what has no words is refused, odd characters are folded.

Folding changes how a text is written, not what it says: letters of full width, accents apart from
their letters, invisible characters and odd spaces are rare where a model learnt to read, and give
it tokens that it hardly knows. An ordinary text comes out as it went in.
"""

import re
import unicodedata
from itertools import groupby

from ensemble.contract.voice import PromptError

# Full-width digits and Latin letters. Not full-width punctuation, which is ordinary in Chinese and
# Japanese; not the rest of NFKC, which turns superscripts and fractions into other numbers.
_FULL_WIDTH = re.compile("[\uff10-\uff19\uff21-\uff3a\uff41-\uff5a]")
# A letter and accents after it, as macOS writes file names. Other scripts' marks stay: composing
# would change how Hindi or Hebrew is ordinarily written.
_ACCENTED = re.compile("[^\\W\\d_][\u0300-\u036f]+")
# Zero-width space, word joiner, byte order mark, soft hyphen, marks of direction. Not the two
# joiners, U+200C and U+200D, which Persian and the scripts of India need.
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")
_SPACES = re.compile("[\t \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")  # but line breaks
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # Hangul fillers: letters by category, never seen
_SHOWN = 20  # characters of a text that an error repeats
MAX_TEXT_CHARACTERS = 20_000  # more than any prompt holds; bounds the time of all that reads a text
# Combining characters in a row: Unicode's Stream-Safe Text Format (UAX 15) allows as many. The time
# of composing them grows with their square: 3 s for 40,000.
_MOST_MARKS = 30


def prompt_text(text: str, name: str, fold: bool = True) -> str:
    """The text as the prompt takes it.

    Args:
        text: What the caller sent.
        name: Of the input, for the error.
        fold: Whether to fold odd characters; the setting VOICEREEL_FOLD_TEXT.

    Raises:
        PromptError: If there are no words in it, or more than any prompt holds.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise PromptError(
            f"{name} has {len(text)} characters, expected at most {MAX_TEXT_CHARACTERS}. "
            "Split it into sentences and send them one by one."
        )
    if not text.strip():
        raise PromptError(f"{name} is empty, expected words to say.")
    if not has_words(text):
        raise PromptError(
            f"{name} is {text[:_SHOWN]!a}, which has no letter or digit: no words to say."
        )
    marks = (len(list(run)) for is_mark, run in groupby(text, _is_mark) if is_mark)
    if (most := max(marks, default=0)) > _MOST_MARKS:
        raise PromptError(
            f"{name} has {most} accents on one letter, expected at most {_MOST_MARKS}."
        )
    return folded(text) if fold else text


def prompt_texts(texts: list[str], name: str, fold: bool = True) -> list[str]:
    """Several texts of one input, as the prompt takes them; arguments as for `prompt_text`.

    Raises:
        PromptError: If one of them cannot be spoken, or all are more than any prompt holds.
    """
    if (count := sum(map(len, texts))) > MAX_TEXT_CHARACTERS:
        raise PromptError(
            f"{name} has {count} characters in {len(texts)} texts, expected at most "
            f"{MAX_TEXT_CHARACTERS}. Use fewer or shorter recordings."
        )
    return [prompt_text(text, f"{name}[{i}]", fold) for i, text in enumerate(texts)]


def _is_mark(character: str) -> bool:
    return unicodedata.combining(character) > 0


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit of any script."""
    return any(unicodedata.category(c)[0] in "LN" and c not in _BLANK_LETTERS for c in text)


def folded(text: str) -> str:
    """Fold full-width letters and digits, accents, invisible characters and spaces."""
    text = _FULL_WIDTH.sub(lambda found: chr(ord(found[0]) - 0xFEE0), text)
    text = _INVISIBLE.sub("", text)
    text = _ACCENTED.sub(lambda found: unicodedata.normalize("NFC", found[0]), text)
    return _SPACES.sub(" ", text)
