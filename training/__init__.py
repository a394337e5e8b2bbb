"""Trains the demo voice: `python -m training all`, and what that costs is in training/README.md."""
