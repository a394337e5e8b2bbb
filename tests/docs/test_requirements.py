"""requirements/ is complete, exact and of one mind, so that `make setup` resolves nothing."""

import importlib.metadata
import os
import re
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).resolve().parents[2]
# fish-speech asks for 60 packages more, which families/fish_s1/upstream.py does without.
# Of check-jsonschema only a file is read.
NOT_COMPLETED = {"fish-speech", "descript-audio-codec", "pocketsphinx", "check-jsonschema"}
BROUGHT_BY_TORCH = re.compile(r"nvidia-|cuda-|triton$")  # where the index has the CUDA build


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, set[str]]:
    """Every pinned version of every package."""
    found: dict[str, set[str]] = {}
    for path in (PROJECT / "requirements").glob("*.txt"):
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                name, exactly, version = line.partition("==")
                assert exactly, f"{path}: {line} is not pinned"
                found.setdefault(normal(name), set()).add(version)
    return found


def test_the_lists_agree() -> None:
    assert {name: versions for name, versions in pins().items() if len(versions) > 1} == {}


def test_what_is_installed_is_what_is_pinned() -> None:
    for name, versions in pins().items():
        assert {importlib.metadata.version(name).partition("+")[0]} == versions, name


def test_what_the_pinned_packages_need_is_pinned() -> None:
    pinned = pins()
    for name in pinned.keys() - NOT_COMPLETED:
        for text in importlib.metadata.requires(name) or []:
            need = Requirement(text)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                known = normal(need.name) in pinned or BROUGHT_BY_TORCH.match(need.name)
                assert known, f"{name} needs {text}"


def test_tritonclient_can_share_memory() -> None:
    """It imports a part of setuptools that newer versions lack."""
    from tritonclient.utils import shared_memory

    region = shared_memory.create_shared_memory_region("test", f"/voicereel-test-{os.getpid()}", 64)
    shared_memory.destroy_shared_memory_region(region)
