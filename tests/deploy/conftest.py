"""Deployments as an operator would put them together."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from support.manifests import KUBERNETES, TRIED_WITH, Object, rendered


@pytest.fixture(scope="session")
def own_overlay(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str | None], Path]:
    """Writes an overlay beside those of the project, or finds one, and says where it is."""
    root = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, root)

    def write(name: str, kustomization: str | None) -> Path:
        folder = root / "overlays" / name
        if kustomization is not None:
            folder.mkdir(exist_ok=True)
            (folder / "kustomization.yaml").write_text(kustomization)
        return folder

    return write


@pytest.fixture(scope="session")
def whole(own_overlay) -> Callable[[str], list[Object]]:
    """The overlay cpu with components of `TRIED_WITH`, by name."""

    def build(name: str) -> list[Object]:
        components = [f"../../components/{each}" for each in TRIED_WITH[name]]
        written = yaml.safe_dump({"resources": ["../cpu"], "components": components})
        return rendered(own_overlay(name, written))

    return build
