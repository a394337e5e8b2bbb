"""Texts as callers give them: bytes become text, and what cannot be sent or spoken is refused."""

import codecs
import os
import unicodedata
from typing import Any

from voicereel.errors import InvalidRequest
from voicereel.places import open_file

_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # Hangul fillers: letters by category, never seen
MAX_BYTES = 8e6  # of a text or script: some hundred hours of speech
_SHOWN = 20  # characters of a text that an error repeats


def checked_text(text: Any, what: str) -> str:
    """The text, if it can be written as UTF-8.

    Args:
        text: Any value.
        what: What the text is, for the message: "text" or "reference_text".

    Raises:
        InvalidRequest: If it is no str, or holds half a character; says which one.
    """
    if not isinstance(text, str):
        raise InvalidRequest(f"{what} is {type(text).__name__}, expected str")
    if problem := broken_character(text):
        raise InvalidRequest(f"{what}: {problem}")
    return text


def broken_character(text: str) -> str:
    """What is wrong with the first character that UTF-8 cannot express; "" if there is none.

    Python keeps such characters where bytes were not UTF-8 (an argument of the command line), and
    where JSON holds one half of a surrogate pair (an emoji cut in two).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        place = f"character {error.start + 1}"
        if 0xDC80 <= code <= 0xDCFF:  # PEP 383: a byte that was not UTF-8
            return (
                f"{place} is the byte 0x{code - 0xDC00:02x}, which is not UTF-8. Encode the text "
                "as UTF-8."
            )
        return (
            f"{place} is \\u{code:04x}, one half of a character that is written as two (an emoji, "
            "for example). Send it whole, or leave it out."
        )
    return ""


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


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file.

    Raises:
        InvalidRequest: If it cannot be read, or is not UTF-8; names the line at fault.
    """
    try:
        with open_file(path, MAX_BYTES) as file:
            return decoded(file.read(int(MAX_BYTES) + 1), str(path))
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror}") from None


def decoded(raw: bytes, source: str) -> str:
    r"""Decode UTF-8, or UTF-16 with a byte order mark; lines end with \n.

    Raises:
        InvalidRequest: If it is neither, holds a NUL or is too long; names the line at fault.
    """
    if len(raw) > MAX_BYTES:
        raise InvalidRequest(
            f"{source} has {len(raw) / 1e6:.1f} MB or more, expected at most "
            f"{MAX_BYTES / 1e6:.1f}: is it a text? Cut it into several"
        )
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(
            f"{source}, line {line}: {error.reason}, expected UTF-8. Save it as such."
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if (at := text.find("\0")) >= 0:
        line = text.count("\n", 0, at) + 1
        raise InvalidRequest(f"{source}, line {line}: it is no text: it holds NUL bytes")
    return text


def composed(name: str) -> str:
    """A name with its marks in composed form (NFC), so that equal names are equal strings.

    macOS decomposes: it writes an e and an accent where others write one letter.
    """
    return unicodedata.normalize("NFC", name)
