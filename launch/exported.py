"""Looks at a model repository before a server is started on it."""

from pathlib import Path

from ensemble.contract import manifest
from launch.tritonserver import PROJECT, LaunchError

COMMITTED = PROJECT / "model_repository"


def check(repository: Path, profile: str | None) -> None:
    """Refuse a folder that no server can serve.

    Args:
        repository: The model repository.
        profile: `configs/<profile>.pbtxt` that some model must have; None: config.pbtxt.

    Raises:
        LaunchError: Says what is missing.
    """
    if not repository.is_dir():
        raise LaunchError(f"model repository {repository} does not exist")
    models = sorted(p for p in repository.iterdir() if p.is_dir())
    if not models:
        raise LaunchError(f"model repository {repository} has no models")
    profiles = {p.stem for model in models for p in model.glob("configs/*.pbtxt")}
    if profile and profile not in profiles:
        raise LaunchError(
            f"no model in {repository} has configs/{profile}.pbtxt; "
            f"profiles there: {', '.join(sorted(profiles)) or 'none'}"
        )


def other_version(repository: Path) -> str:
    """Whether another version of the project exported it, in words; "" if not."""
    return manifest.other_version(repository, COMMITTED)
