"""The decoder on a GPU."""
