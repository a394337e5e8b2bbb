"""`artefacts.json` beside the artefacts: what the export wrote, so that nothing else is served.

It has the SHA-256 of each file and the checkpoint's facts. A file that was cut short, changed or
taken from another export is found when the model is loaded, and so is a repository whose models
are of several checkpoints. It is no signature: whoever can write into the repository can also
change its Python code.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path

from ensemble.contract import facts
from ensemble.contract.facts import Facts

FILE_NAME = "artefacts.json"
FORMAT = 1
_SHELLS = ("*/*/model.py", "*/config.pbtxt", "*/configs/*.pbtxt")
_BLOCK = 1 << 20  # bytes that are read and hashed at a time
_AGAIN = "Re-export with: make export CHECKPOINT=DIR"


def write(folder: Path, made_of: Facts, shells: str = "") -> None:
    """Write the file into a version folder that is complete but for it.

    Args:
        folder: Its files are hashed; those in folders below are served by no model.
        made_of: The checkpoint.
        shells: `shells_of` the committed repository that the export copies.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME)
    values = {
        "format": FORMAT,
        "shells": shells,
        "sha256": {path.name: sha256_of(path) for path in files},
        "facts": asdict(made_of),
    }
    (folder / FILE_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def refuse_changed(
    folder: Path,
    names: Collection[str] | None = None,
    warn: Callable[[str], object] = lambda _: None,
) -> Facts | None:
    """Refuse to serve a folder that is not as it was exported.

    Args:
        folder: A version folder.
        names: Files that will be loaded; None: all that were exported.
        warn: Takes a sentence about what could not be checked.

    Returns:
        The checkpoint's facts; None for an export from before there was this file.

    Raises:
        ValueError: Says which file or model differs, and what to do.
    """
    who = folder.parent.name
    _refuse_other_checkpoints(folder)
    path = folder / FILE_NAME
    if not path.is_file():
        if beside := _beside(folder, FILE_NAME):
            raise ValueError(
                f"{who}: {path} is missing, and {beside[0].parents[1].name} has one: they are of "
                f"different exports. {_AGAIN}"
            )
        warn(f"{who}: {path} is missing, so its files are served unchecked. {_AGAIN}")
        return None
    values = json.loads(path.read_text("utf-8"))
    if values.get("format") != FORMAT:
        found = values.get("format")
        raise ValueError(f"{who}: {path} has format {found}, expected {FORMAT}. {_AGAIN}")
    known = values["sha256"]
    for name in known if names is None else names:
        if name in known:
            _refuse(who, folder / name, known[name])
        elif (folder / name).is_file():
            warn(f"{who}: {folder / name} was not exported with the others: served unchecked.")
    return Facts.of(values["facts"])


def shells_of(repository: Path, like: Path) -> str:
    """Digest a repository's configs and Python models, those that the committed one has.

    Args:
        repository: Whose files are read; one that is missing counts too.
        like: The committed repository, which names them.
    """
    digest = hashlib.sha256()
    for path in sorted(path for kind in _SHELLS for path in like.glob(kind)):
        name = path.relative_to(like)
        held = (repository / name).read_bytes() if (repository / name).is_file() else b""
        digest.update(f"{name} {len(held)} ".encode() + held)
    return digest.hexdigest()


def other_version(repository: Path, committed: Path) -> str:
    """Why a repository's Python models may not fit this version of the project; "" if they do.

    They are copies from the version that exported it, and run with this one's packages. What the
    operator has changed in them since is his own.

    Args:
        repository: Without any export in it there is nothing to compare.
        committed: `model_repository` of this version.
    """
    paths = sorted(repository.glob(f"*/*/{FILE_NAME}"))
    now = shells_of(committed, committed)
    if not paths or now == (copied := shells_of(repository, committed)):
        return ""
    for path in paths:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # damage is told elsewhere
            if (json.loads(path.read_text("utf-8")).get("shells") or copied) != now:
                return (
                    f"{repository} was exported by another version of this project: export again, "
                    f"with make export CHECKPOINT=DIR REPOSITORY={repository}"
                )
    return ""


def sha256_of(path: Path) -> str:
    """Digest a file, as hexadecimal digits: about a second for 1.5 GB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _refuse(who: str, path: Path, expected: str) -> None:
    if not path.is_file():
        return  # the model that loads it says so
    if (found := sha256_of(path)) != expected:
        raise ValueError(
            f"{who}: {path} is not the file that was exported: its SHA-256 is {found[:16]}..., "
            f"expected {expected[:16]}... It was changed, cut short, or is of another export. "
            f"{_AGAIN}"
        )


def _beside(folder: Path, name: str) -> list[Path]:
    """The files of that name in this version of all models."""
    return sorted(folder.absolute().parents[1].glob(f"*/{folder.name}/{name}"))


def _refuse_other_checkpoints(folder: Path) -> None:
    """Compare what all models say of their checkpoint; the weights of one know no other's codes."""
    found: dict[str, str] = {}
    for name in (FILE_NAME, facts.FILE_NAME):
        for path in _beside(folder, name):
            try:
                values = json.loads(path.read_text("utf-8"))
                values = values["facts"] if name == FILE_NAME else values
                found[str(values["checkpoint_id"])] = path.parents[1].name
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{path.parents[1].name}: {path} is damaged. {_AGAIN}") from None
    if len(found) > 1:
        models = ", ".join(f"{model} of {identity}" for identity, model in sorted(found.items()))
        raise ValueError(
            f"{folder.parent.name}: the models are of different checkpoints: {models}. {_AGAIN}"
        )
