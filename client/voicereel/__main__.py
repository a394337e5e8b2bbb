"""`python -m voicereel`."""

from voicereel.cli import app

app(prog_name="voicereel")
