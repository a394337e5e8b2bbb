"""Exists only inside Triton's stub process, so pyright has nothing to read."""

from typing import Any

def __getattr__(name: str) -> Any: ...
