"""The codec by our own operators instead of the portable graph, where this machine can run it."""

import ctypes
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from engine.codec import package as compiled
from engine.codec.session import Decoder
from ensemble.contract.settings import server_settings
from ensemble.serving.stand_in import Arrays, ServedModel

Run = Callable[[Arrays], Arrays]

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h
_INT_MAX = 2**31 - 1


def load_compiled(model: ServedModel, log: Callable[[str], None]) -> Run | None:
    """Load the file that the config names, if there is one and it is fit.

    Args:
        model: Its parameter COMPILED_FILENAME names a file beside the artefact.
        log: Told in one line which of the two is served.

    Returns:
        From the inputs of one run to its outputs, or None: serve the artefact.
    """
    filename = model.parameters.get(compiled.PARAMETER)
    if filename is None or model.gpu is not None:
        return None
    problems: list[str] = []
    for candidate in (compiled.INT8_FILE_NAME, filename):
        try:
            run = _load(model, candidate)
        except Exception as problem:  # whatever it is, the portable artefact still serves
            problems.append(str(problem))
            continue
        if run is not None:
            said = f"{model.name}: serving {candidate}, by kernels for this CPU"
            log("; ".join([said, *problems]))
            return run
    reasons = "; ".join(dict.fromkeys(problems))
    log(f"{model.name}: serving {model.artefact.name}, without kernels: {reasons}")
    return None


def _load(model: ServedModel, filename: str) -> Run | None:
    """None for 8 bits where nobody asked for them, and always for the encoder, which has none.

    Raises ValueError, or whatever torch raises, if that cannot be.
    """
    path = model.artefact.with_name(filename)
    settings = server_settings()
    if not settings.use_kernels:
        raise ValueError("FISH_SPEECH_COMPILE is false")

    import torch  # heavy, and needed only from here: ONNX Runtime's stand-in does without

    from engine.kernels import transformer as kernels
    from engine.lm.placement import placement_for

    placement = placement_for(settings, "cpu")
    inputs = [t.name for t in model.signature.inputs]
    encoder = "waveform" in inputs
    if filename == compiled.INT8_FILE_NAME and (encoder or not placement.int8):
        return None
    half = "float32" if placement.dtype == torch.float32 else "bfloat16"
    if not path.is_file():
        how = " INT8=1" if filename == compiled.INT8_FILE_NAME else ""
        raise ValueError(f"there is no {filename}: make export CHECKPOINT=DIR{how}")
    if fault := kernels.fault():
        raise ValueError(fault)
    extra = {compiled.DESCRIPTION: ""}
    try:
        module = torch.jit.load(str(path), _extra_files=extra)
    except RuntimeError as error:
        if "voicereel::" not in str(error):
            raise
        reason = f"{filename} calls operators of another version: make export CHECKPOINT=DIR"
        raise ValueError(reason) from error
    described = json.loads(extra[compiled.DESCRIPTION])
    if problem := compiled.unfit(described, inputs, "int8" if placement.int8 else half):
        raise ValueError(problem)
    if described["instructions"] and not torch.ops.voicereel.has_units():
        raise ValueError("Linux keeps this process from the CPU's matrix units")
    (output,) = (t.name for t in model.signature.outputs)
    keep_memory()
    run = partial(encode, module, described) if encoder else Decoder(module, described)
    return lambda arrays: {output: run(arrays)}


def encode(module: Callable[..., Any], described: Mapping[str, str], arrays: Arrays) -> np.ndarray:
    """Run the encoder, chunk by chunk, each of `ENCODER_FRAMES` at most.

    Args:
        module: What was loaded.
        described: What it says of itself.
        arrays: `waveform` and `chunk_frames`, as `engine.codec.graphs.EncoderGraph` has them.
    """
    import torch

    waveform = arrays["waveform"]
    rows, samples = waveform.shape
    frame, limit = int(described["samples_per_frame"]), int(described["frames"])
    frames = -(-samples // frame)
    if not 1 <= frames <= limit:  # it does not look where its tables end
        raise ValueError(f"waveform has {samples} samples, expected 1 to {limit * frame}.")
    chunk = max(1, min(int(arrays["chunk_frames"].min()), compiled.ENCODER_FRAMES) // rows)
    whole = np.pad(waveform, ((0, 0), (0, frames * frame - samples)))
    whole = torch.from_numpy(whole).unflatten(1, (frames, frame))
    state, codes = torch.zeros(rows, int(described["state_size"])), []
    with torch.inference_mode():
        for begin in range(0, frames, chunk):
            new, state = module(whole[:, begin : begin + chunk], state, torch.tensor(begin * frame))
            codes.append(new)
        return torch.cat(codes, 2).numpy()


def keep_memory() -> None:
    """Have glibc keep for the next layer what the last one has freed.

    Else it gives every large tensor back to the kernel, and the next one, made anew page by page,
    costs a convolution a third of its speed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do without
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
