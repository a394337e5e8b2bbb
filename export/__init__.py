"""Exports checkpoints: writes graphs and compares each with upstream before it is served."""
