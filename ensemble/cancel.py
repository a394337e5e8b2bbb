"""How a caller who leaves frees the slot that generates for him.

The steps of an ensemble are not told when its request is cancelled. And a Python model that
receives another model's stream must not ask `is_cancelled` itself: the question holds the
interpreter's lock until the answer comes, behind responses that need the lock (Triton 24.10; met
as a hang under load). So callers name a token with the request, its parameter `cancel_token`, and
`fish_cancel` takes it back: a file lives as long as somebody waits for the request.
"""

import json
import os
import re
import tempfile
import uuid
from pathlib import Path

PARAMETER = "cancel_token"
_FOLDER = Path(tempfile.gettempdir()) / f"voicereel-waiting-{os.getuid()}"
_TOKEN = re.compile("[0-9a-f]{32}")


def _file_of(token: object) -> Path | None:
    """None for what is no token: never a path of a caller's choice."""
    return _FOLDER / token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _token_in(parameters: str) -> object:
    return json.loads(parameters or "{}").get(PARAMETER)


class CancelToken:
    """One request's; made by the front door, from the caller's parameters (JSON) or anew."""

    def __init__(self, parameters: str) -> None:
        asked = _token_in(parameters)
        if asked is not None and _file_of(asked) is None:
            raise ValueError(f"{PARAMETER} is {asked!r}, expected 32 hexadecimal digits.")
        self.name = asked if isinstance(asked, str) else uuid.uuid4().hex
        self._file = _FOLDER / self.name
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        try:
            self._file.touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"{PARAMETER} {self.name} is in use, expected a new one.") from None

    @property
    def taken_back(self) -> bool:
        """Whether nobody waits any more."""
        return not self._file.exists()

    def take_back(self) -> None:
        """The request has ended, or there is no use in going on with it."""
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


def waiting_file(parameters: str) -> Path | None:
    """The file whose end means "nobody waits", if a front door made one for the request."""
    file = _file_of(_token_in(parameters))
    return file if file is not None and file.exists() else None
