"""The checkout of voicereel-triton that this package may be part of: server, export, benchmarks."""

from pathlib import Path

from voicereel.errors import ConfigurationError


def project_folder(needed_for: str) -> Path:
    """Its root.

    Raises:
        ConfigurationError: If the client was installed without it.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "launch" / "serve.py").is_file():
        raise ConfigurationError(
            f"{needed_for} needs the whole of voicereel-triton, and only its client is installed "
            "here. In a checkout of it: make setup, then .venv/bin/voicereel"
        )
    return root
