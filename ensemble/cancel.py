"""How a unary front door tells the engine, in another process, that its caller is gone.

A call from one model to another cannot be cancelled in this server's release, but its parameters
travel through ensembles: the front door names a token, and the token's file means "cancelled".
"""

import json
import os
import re
import tempfile
import uuid
from pathlib import Path

PARAMETER = "cancel_token"
_FOLDER = Path(tempfile.gettempdir()) / f"voicereel-cancelled-{os.getuid()}"
_TOKEN = re.compile("[0-9a-f]{32}")


class CancelToken:
    """One request's; made by the front door."""

    def __init__(self) -> None:
        self.name = uuid.uuid4().hex
        self.gone = False  # whether it was the caller who left

    def stop(self) -> None:
        """From now on the engine sees the request as cancelled."""
        _FOLDER.mkdir(mode=0o700, exist_ok=True)
        (_FOLDER / self.name).touch()

    def forget(self) -> None:
        """The request has ended."""
        (_FOLDER / self.name).unlink(missing_ok=True)


def flag_of(parameters: str) -> Path | None:
    """The file that means "cancelled", if a request's parameters (JSON) name a token."""
    token = json.loads(parameters or "{}").get(PARAMETER)
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        return None  # never a path of a caller's choice
    return _FOLDER / token
