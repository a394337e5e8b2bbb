"""How a caller who leaves frees the slot that generates for him.

The steps of an ensemble are not told when its request is cancelled (Triton 24.10). So callers
name a token with the request, its parameter `cancel_token`, which travels through ensembles, and
`fish_cancel` takes it back: a file lives as long as somebody waits.
"""

import json
import os
import re
import tempfile
import time
from pathlib import Path

PARAMETER = "cancel_token"
_FOLDER = Path(tempfile.gettempdir()) / f"voicereel-waiting-{os.getuid()}"
_TOKEN = re.compile("[0-9a-f]{32}")
_EARLY = ".early"  # suffix of a token that was taken back before its request had come
EARLY_S, EARLY_LIMIT = 60, 1024  # such are kept for so long, so many


def _file_of(token: object) -> Path | None:
    """None for what is no token: never a path of a caller's choice."""
    return _FOLDER / token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def token_in(parameters: str) -> object:
    """What a request's parameters (JSON) name; None if nothing."""
    return json.loads(parameters or "{}").get(PARAMETER)


class CancelToken:
    """One request's, from its parameters (JSON); without one nobody can take it back."""

    def __init__(self, parameters: str) -> None:
        """Begin to wait.

        Raises:
            ValueError: If what the request names is no token, or in use.
        """
        asked = token_in(parameters)
        self._file = _file_of(asked)
        if asked is None:
            return
        if self._file is None:
            raise ValueError(f"{PARAMETER} is {asked!r}, expected 32 hexadecimal digits.")
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        try:
            self._file.touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"{PARAMETER} {asked} is in use, expected a new one.") from None
        early = self._file.with_suffix(_EARLY)
        if early.exists():  # looked for after the touch: `take_back` looks the other way round
            self.end()
            early.unlink(missing_ok=True)

    @property
    def taken_back(self) -> bool:
        """Whether nobody waits any more."""
        return self._file is not None and not self._file.exists()

    def end(self) -> None:
        """The request has ended."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def take_back(token: str) -> bool:
    """What `fish_cancel` does; returns whether the request was still under way.

    One that has not come yet will be found taken back when it comes.

    Raises:
        ValueError: If it is no token.
    """
    file = _file_of(token)
    if file is None:
        raise ValueError(f"{PARAMETER} is {token!r}, expected 32 hexadecimal digits.")
    if _unlinked(file):
        return True
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    _forget_early()
    early = file.with_suffix(_EARLY)
    early.touch()
    if _unlinked(file):  # it came meanwhile, perhaps too soon to see the mark
        early.unlink(missing_ok=True)
        return True
    return False


def _unlinked(file: Path) -> bool:
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True


def _forget_early() -> None:
    """Drop marks that are old, and the oldest if they are too many."""
    marks = []
    for mark in _FOLDER.glob(f"*{_EARLY}"):
        try:
            marks.append((mark.stat().st_mtime, mark))
        except FileNotFoundError:  # its request has come
            continue
    marks.sort(reverse=True)
    for i, (since, mark) in enumerate(marks):
        if i >= EARLY_LIMIT - 1 or time.time() - since > EARLY_S:
            mark.unlink(missing_ok=True)
