"""Closes the front doors before the server ends, so that what is in flight ends whole.

A stopping tritonserver keeps gRPC streams open and sends nothing more on them (Triton 24.10). So
the launcher first opens a pipe that this module waits for. Triton then unloads the front doors: it
refuses new requests, is not ready, and keeps each model until its last request has ended. When the
server is ready again, nothing is in flight. Imports only in a server.
"""

from __future__ import annotations  # pb_utils gets its classes only after this import

import threading
from pathlib import Path

import triton_python_backend_utils as pb_utils

from ensemble.contract.settings import server_settings
from ensemble.contract.tensors import FRONT_DOORS


def watch() -> None:
    """Wait in a thread for the launcher; does nothing in a server that was started without it."""
    if pipe := server_settings().drain_pipe:
        threading.Thread(target=_close_doors, args=(Path(pipe),), daemon=True).start()


def _close_doors(pipe: Path) -> None:
    try:
        with pipe.open("rb") as opened:  # returns when the launcher opens the other end
            opened.read()
    except FileNotFoundError:
        return  # it has been so before: this process has taken the place of one that crashed
    for name in FRONT_DOORS:
        try:
            pb_utils.unload_model(name)
        except Exception as problem:  # a repository may lack a door
            pb_utils.Logger.log_info(f"fish_cancel: {name} was not closed: {problem}")
    pipe.unlink()  # tells the launcher that all have been closed
