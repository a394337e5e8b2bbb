"""Checkpoint families: one folder for each, with its files, weights and prompt."""
