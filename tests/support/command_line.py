"""Runs a `voicereel` command inside the test's process."""

from typer.testing import CliRunner

from voicereel.cli import app
from voicereel.settings import settings


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    settings.cache_clear()  # as in a process of its own
    try:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    finally:
        settings.cache_clear()
    return result.exit_code, result.stdout, result.stderr
