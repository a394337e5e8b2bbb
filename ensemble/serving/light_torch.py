"""Imports torch for serving: without what only its compiler needs.

Import this before anything that imports torch. PyTorch describes each operator a second time, in
Python, for `torch.compile` and tensors without numbers. Nothing here asks for that, and each model
would pay about a second of CPU time for it whenever the server starts. Who does ask can still
import `torch._meta_registrations`.
"""

import gc
import sys
import types

from ensemble.serving.own_server import in_a_server

_FOR_THE_COMPILER = "torch._meta_registrations"

if "torch" not in sys.modules and in_a_server():  # tests and exports have the whole
    sys.modules[_FOR_THE_COMPILER] = types.ModuleType(_FOR_THE_COMPILER)
    gc.disable()  # it would walk over a thousand modules again and again
    try:
        import torch
    finally:
        gc.enable()
        del sys.modules[_FOR_THE_COMPILER]
    vars(torch).pop(_FOR_THE_COMPILER.partition(".")[2], None)
    gc.freeze()  # what was imported stays; no later collection looks at it
