"""Checkpoint families: one folder for each, which knows its files, weights and prompt."""
