"""The checkout of voicereel-triton that this package may be part of: server, export, benchmarks."""

import os
from pathlib import Path

from voicereel.errors import ConfigurationError


def project_folder(needed_for: str) -> Path:
    """The root of the checkout.

    Raises:
        ConfigurationError: If the client was installed without the rest of the project.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "launch" / "serve.py").is_file():
        raise ConfigurationError(
            f"{needed_for} needs the whole of voicereel-triton, and only its client is installed "
            "here. In a checkout of it: make setup, then .venv/bin/voicereel"
        )
    return root


def project_environment(root: Path) -> dict[str, str]:
    """The environment for a Python command of the project, whose packages it finds first."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path}
