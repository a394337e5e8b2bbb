"""Deployments as an operator would put them together."""

import shutil
from collections.abc import Callable

import pytest
import yaml

from support.manifests import KUBERNETES, TRIED_WITH, Object, rendered


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Object]]:
    """The overlay cpu with components of `TRIED_WITH`, by name."""
    root = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(KUBERNETES, root)

    def build(name: str) -> list[Object]:
        folder = root / "overlays" / name
        folder.mkdir(exist_ok=True)
        components = [f"../../components/{each}" for each in TRIED_WITH[name]]
        written = {"resources": ["../cpu"], "components": components}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(written))
        return rendered(folder)

    return build
