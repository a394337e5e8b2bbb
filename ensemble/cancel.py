"""How a caller who leaves frees the slot that generates for him.

The steps of an ensemble are not told when its request is cancelled. And a Python model that
receives another model's stream must not ask `is_cancelled` itself: the question holds the
interpreter's lock until the answer comes, behind responses that need the lock (Triton 24.10).
So callers name a token with the request, its parameter `cancel_token`, which travels through
ensembles, and `fish_cancel` takes it back: a file lives as long as somebody waits.
"""

import json
import os
import re
import tempfile
from pathlib import Path

PARAMETER = "cancel_token"
_FOLDER = Path(tempfile.gettempdir()) / f"voicereel-waiting-{os.getuid()}"
_TOKEN = re.compile("[0-9a-f]{32}")


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

    Raises:
        ValueError: If it is no token.
    """
    file = _file_of(token)
    if file is None:
        raise ValueError(f"{PARAMETER} is {token!r}, expected 32 hexadecimal digits.")
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True
