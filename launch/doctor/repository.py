"""Checks of a model repository: artefacts, checkpoint, version."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.contract import facts, manifest
from ensemble.contract.artefact import FILE_OF_BACKEND
from families.registry import PROMPT_FILES
from launch.doctor import Finding
from launch.exported import COMMITTED as TEMPLATE


def _exported(family: str) -> dict[str, tuple[str, ...]]:
    """Files that the export of a family puts beside the Python models.

    The configs name those of the other models. An unknown family counts as the first.
    """
    prompt = PROMPT_FILES.get(family, next(iter(PROMPT_FILES.values())))
    return {
        "fish_checkpoint": (facts.FILE_NAME,),
        "fish_llama": ("llama.pt", facts.FILE_NAME),
        "fish_prompt": (*prompt, facts.FILE_NAME),
        "fish_reference": (facts.FILE_NAME,),
    }


EXPORTED = _exported("")
# The module makes its classes when it is imported, so pyright sees none of them.
_ModelConfig: Any = vars(model_config_pb2)["ModelConfig"]
_EXPORT = "make export CHECKPOINT=DIR"


def artefacts(repository: Path) -> Iterator[Finding]:
    """Check that the export's files are there, from one checkpoint and for this checkout."""
    if not repository.is_dir():
        yield Finding("artefacts", "broken", f"{repository} does not exist", _EXPORT)
        return
    missing = [path for path in _needed(repository) if not path.is_file()]
    if missing:
        few = ", ".join(str(p.relative_to(repository)) for p in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield Finding("artefacts", "broken", f"{repository} lacks {few}{more}", _EXPORT)
    else:
        yield Finding("artefacts", "ok", f"{repository}: all there")
    ids = checkpoint_ids(repository)
    if len(set(ids.values())) > 1:
        each = ", ".join(f"{model} {made_from}" for model, made_from in ids.items())
        yield Finding("checkpoint", "broken", f"models of different checkpoints: {each}", _EXPORT)
    elif ids:
        yield Finding("checkpoint", "ok", next(iter(ids.values())))
    yield _version_of(repository)


def checkpoint_ids(repository: Path) -> dict[str, str]:
    """The id of the checkpoint that each exported model was made from."""
    return {
        path.parent.parent.name: json.loads(path.read_text("utf-8")).get("checkpoint_id", "?")
        for path in sorted(repository.glob(f"*/*/{facts.FILE_NAME}"))
    }


def _needed(repository: Path) -> Iterator[Path]:
    exported = _exported(_family_of(repository))
    for template in sorted(TEMPLATE.glob("*/config.pbtxt")):
        name = template.parent.name
        folder = repository / name
        yield folder / "config.pbtxt"
        here = folder / "config.pbtxt" if (folder / "config.pbtxt").is_file() else template
        config = text_format.Parse(here.read_text("utf-8"), _ModelConfig())
        artefact = config.default_model_filename or FILE_OF_BACKEND.get(config.backend)
        files = (artefact, *exported.get(name, ())) if artefact else ()
        yield from (folder / "1" / file for file in files)


def _family_of(repository: Path) -> str:
    """The family that the export wrote down, or ""."""
    try:
        text = (repository / "fish_prompt" / "1" / facts.FILE_NAME).read_text("utf-8")
        return str(json.loads(text)["family"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _version_of(repository: Path) -> Finding:
    """Compare the committed files with the copies that were made when it was exported."""
    committed = [p for kind in ("*.pbtxt", "model.py") for p in TEMPLATE.rglob(kind)]
    differing = [
        str(path.relative_to(TEMPLATE))
        for path in sorted(committed)
        if not (copy := repository / path.relative_to(TEMPLATE)).is_file()
        or copy.read_bytes() != path.read_bytes()
    ]
    if other := manifest.other_version(repository, TEMPLATE):
        return Finding("version", "warning", other, _EXPORT)
    if differing:
        few = ", ".join(differing[:3]) + (", ..." if len(differing) > 3 else "")
        return Finding("version", "warning", f"not as in this checkout: {few}",
                       f"{_EXPORT}, if these are not your own changes")  # fmt: skip
    return Finding("version", "ok", "configs and models are those of this checkout")
