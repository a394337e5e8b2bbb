"""What keeps this machine from serving, found before it is tried: `voicereel doctor`'s server half.

    python -m launch.doctor [--repository DIR]

prints a JSON list of findings. Each check is quick and starts nothing.
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
