"""Ends the generation of a request whose caller has left.

Triton does not tell the steps of an ensemble that its request was cancelled (Triton 24.10). So a
caller names a token in the request's parameter `cancel_token`, which travels through ensembles,
and hands the token to `fish_cancel` to end the request. A token is a file in a folder that all
models of this server share: it exists as long as its request is wanted.

Who knows a token can end its request, so a caller draws 128 random bits for each, as the client
does. Nothing lists tokens: `fish_cancel` says only whether the one it was given was in use.
"""

import json
import os
import re
import stat
import tempfile
import time
from pathlib import Path

from ensemble.contract.parameters import CANCEL_TOKEN

PARAMETER = CANCEL_TOKEN
_FOLDER = Path(tempfile.gettempdir()) / f"voicereel-waiting-{os.getuid()}"
_TOKEN = re.compile("[0-9a-f]{32}")
_EARLY = ".early"  # suffix of the mark of a token that was taken back before its request arrived
EARLY_S = 60  # seconds a mark is kept: as long as config.pbtxt lets a request queue
EARLY_LIMIT = 1024  # marks kept at most, so that calls of fish_cancel cannot fill the disk


def _file_of(token: object) -> Path | None:
    """The token's file; None for anything but a token, so that no caller can choose a path."""
    return _FOLDER / token if isinstance(token, str) and _TOKEN.fullmatch(token) else None


def _make_folder() -> None:
    """Make the folder, which nobody else on this machine may write to.

    Raises:
        PermissionError: If another user made it: they could end every request.
    """
    _FOLDER.mkdir(mode=0o700, exist_ok=True)
    found = _FOLDER.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{_FOLDER} is not this server's own folder. Remove it.")


def token_in(parameters: str) -> object:
    """The token that a request's parameters (JSON) name; None if they name none."""
    return json.loads(parameters or "{}").get(PARAMETER)


class CancelToken:
    """The token of one request. A request without one cannot be taken back."""

    def __init__(self, parameters: str) -> None:
        """Create the token's file.

        Args:
            parameters: The request's, as JSON.

        Raises:
            ValueError: If the request names something else than a token, or one in use.
        """
        asked = token_in(parameters)
        self._file = _file_of(asked)
        if asked is None:
            return
        if self._file is None:
            raise ValueError(f"{PARAMETER} is {asked!r}, expected 32 hexadecimal digits.")
        _make_folder()
        try:
            self._file.touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"{PARAMETER} {asked} is in use, expected a new one.") from None
        early = self._file.with_suffix(_EARLY)
        if early.exists():  # checked after the touch, while `take_back` writes before it checks
            self.end()
            early.unlink(missing_ok=True)

    @property
    def taken_back(self) -> bool:
        """Whether the caller has left."""
        return self._file is not None and not self._file.exists()

    def end(self) -> None:
        """Remove the file: the request has ended."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def take_back(token: str) -> bool:
    """End the request that has this token.

    A request that has not arrived yet is ended when it arrives.

    Returns:
        Whether the request was running.

    Raises:
        ValueError: If it is no token.
    """
    file = _file_of(token)
    if file is None:
        raise ValueError(f"{PARAMETER} is {token!r}, expected 32 hexadecimal digits.")
    if _unlinked(file):
        return True
    _make_folder()
    _forget_early()
    early = file.with_suffix(_EARLY)
    early.touch()
    if _unlinked(file):  # the request has arrived meanwhile, perhaps too soon to see the mark
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
    """Remove marks that are older than EARLY_S, and the oldest where there are too many."""
    marks = []
    for mark in _FOLDER.glob(f"*{_EARLY}"):
        try:
            marks.append((mark.stat().st_mtime, mark))
        except FileNotFoundError:  # its request has arrived
            continue
    marks.sort(reverse=True)
    for i, (since, mark) in enumerate(marks):
        if i >= EARLY_LIMIT - 1 or time.time() - since > EARLY_S:
            mark.unlink(missing_ok=True)
