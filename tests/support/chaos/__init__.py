"""Faults against a real server of `make serve`, and what was lost by them. Run by `make chaos`."""
