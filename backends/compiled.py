"""A graph compiled ahead of time instead of the portable one, where this machine can run it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from backends.native import Arrays, ServedModel
from ensemble import compiled

Run = Callable[[Arrays], Arrays]


def load_compiled(model: ServedModel, log: Callable[[str], None]) -> Run | None:
    """Load the package that the config names, if there is one and it is fit.

    Args:
        model: Its parameter COMPILED_FILENAME names a file beside the artefact.
        log: Told in one line which of the two is served.

    Returns:
        From the inputs of one run to its outputs, or None: serve the artefact.
    """
    filename = model.parameters.get(compiled.PARAMETER)
    if filename is None or model.gpu is not None:
        return None
    run = None
    try:
        run = _load(model, filename)
        log(f"{model.name}: serving {filename}, compiled for this CPU")
    except Exception as problem:  # whatever it is, the portable artefact still serves
        log(f"{model.name}: serving {model.artefact.name}, not a compiled one: {problem}")
    return run


def _load(model: ServedModel, filename: str) -> Run:
    """Raises ValueError, or whatever torch raises, if that cannot be."""
    path = model.artefact.with_name(filename)
    if not compiled.wanted():
        raise ValueError("FISH_SPEECH_COMPILE is false")
    if not path.is_file():
        raise ValueError(f"there is no {filename}")

    import torch  # heavy, and needed only from here: ONNX Runtime's stand-in does without

    from engine.settings import settings_from

    loader: Any = vars(vars(torch._C)["_aoti"])["AOTIModelPackageLoader"]  # has no type stubs
    described = loader.load_metadata_from_package(str(path), "model")
    half = settings_from(device="cpu").dtype != torch.float32
    inputs = [t.name for t in model.signature.inputs]
    if problem := compiled.unfit(described, inputs, half):
        raise ValueError(problem)
    package = loader(str(path), "model", False, 1, -1)
    order = described["inputs"].split()
    outputs = [t.name for t in model.signature.outputs]

    def run(arrays: Arrays) -> Arrays:
        compiled.refuse_window(described, arrays["codes"], arrays["new_frames"])
        # The code takes the memory layout for granted.
        tensors = [torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in order]
        with torch.inference_mode():
            results = package.boxed_run(tensors)
        return {n: r.numpy() for n, r in zip(outputs, results, strict=True)}

    return run
