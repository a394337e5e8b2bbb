"""Runs a `voicereel` command inside the test's process."""

from typer.testing import CliRunner

from voicereel.cli import app


def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr
