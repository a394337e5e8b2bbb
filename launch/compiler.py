"""Whether this machine can compile the kernels of its CPU, and what it costs if it cannot."""

import os
import shutil

from ensemble.contract import distribution
from ensemble.contract.settings import ServerSettings

# The variable is the one that `engine.kernels.build` obeys.
NAME = os.environ.get("CXX", "g++")


def missing(settings: ServerSettings) -> str:
    """What is wrong, or "" where there is a compiler, or none is needed.

    Args:
        settings: The server's. A GPU's kernels need no C++ compiler.
    """
    on_gpu = settings.device != "cpu" and shutil.which("nvidia-smi")
    if not settings.use_kernels or on_gpu or shutil.which(NAME):
        return ""
    return "there is no C++ compiler, and without kernels speech takes about five times as long"


def remedy(then: str = "export again") -> str:
    """The command that brings one, for the distribution at hand, and what to do after it."""
    return f"{distribution.install('g++')}, then {then}"
