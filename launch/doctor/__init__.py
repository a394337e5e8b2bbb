"""Finds what keeps this machine from serving: the server half of `voicereel doctor`.

    python -m launch.doctor [--repository DIR]

prints a JSON list of findings. The checks take seconds and start no server.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: Its name.
        status: "ok"; "warning": it works, or may; "broken": it does not.
        found: In one line.
        fix: What to do, if anything.
    """

    check: str
    status: Literal["ok", "warning", "broken"]
    found: str
    fix: str = ""
