"""How a checkpoint speaks, of any family: an optional file `speech.json` in its folder.

    {"letters_per_request": 42, "letters_per_s": [7.0, 19.0]}

It is no part of the checkpoint's id: voices stay what they are when it changes.
"""

import json
from pathlib import Path
from typing import Any

from families.registry import CheckpointError

FILE_NAME = "speech.json"


def speech_facts(folder: Path) -> dict[str, Any]:
    """The fields of `Facts` that the file gives; none if there is no file.

    Raises:
        CheckpointError: If the file is not of this form.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        return {}
    try:
        asked = json.loads(path.read_text(encoding="utf-8"))
        together = asked.pop("letters_per_request", 0)
        slowest, fastest = map(float, asked.pop("letters_per_s"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error!r}, expected {_FORM}") from None
    if asked or not (isinstance(together, int) and together >= 0) or not 0 < slowest < fastest:
        raise CheckpointError(f"{path}: got {path.read_text(encoding='utf-8')!r}, expected {_FORM}")
    return {"letters_per_request": together, "letters_per_s": (slowest, fastest)}


_FORM = (
    'an object with "letters_per_s", [slowest, fastest], and "letters_per_request", a whole '
    "number, 0 for no limit"
)
