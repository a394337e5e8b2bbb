"""The codec by our own operators instead of the portable graph, where this machine can run it."""

import ctypes
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from backends.native import Arrays, ServedModel
from ensemble import compiled

Run = Callable[[Arrays], Arrays]
Module = Callable[..., Any]  # tensors in, tensors out

# New frames in one run of the decoder. Rows run faster one after the other than together once
# what lies between two layers, 0.8 MB a frame in S1-mini, is far beyond the caches.
PIECE_FRAMES = 64
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
    if not compiled.wanted():
        raise ValueError("FISH_SPEECH_COMPILE is false")

    import torch  # heavy, and needed only from here: ONNX Runtime's stand-in does without

    from engine import kernels
    from engine.settings import settings_from

    settings = settings_from(device="cpu")
    inputs = [t.name for t in model.signature.inputs]
    encoder = "waveform" in inputs
    if filename == compiled.INT8_FILE_NAME and (encoder or not settings.int8):
        return None
    half = "float32" if settings.dtype == torch.float32 else "bfloat16"
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
    if problem := compiled.unfit(described, inputs, "int8" if settings.int8 else half):
        raise ValueError(problem)
    if described["instructions"] and not torch.ops.voicereel.has_units():
        raise ValueError("Linux keeps this process from the CPU's matrix units")
    (output,) = (t.name for t in model.signature.outputs)
    keep_memory()
    served = encode if encoder else decode
    return lambda arrays: {output: served(module, described, arrays)}


def encode(module: Module, described: Mapping[str, str], arrays: Arrays) -> np.ndarray:
    """Run the encoder, chunk by chunk, each of `ENCODER_FRAMES` at most.

    Args:
        module: What was loaded.
        described: What it says of itself.
        arrays: `waveform` and `chunk_frames`, as `export.codec_graphs.EncoderGraph` has them.
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


def decode(module: Module, described: Mapping[str, str], arrays: Arrays) -> np.ndarray:
    """Likewise the decoder's, piece by piece: `codes` and `new_frames` -> audio."""
    import torch

    codes, numbers = arrays["codes"], arrays["new_frames"].copy()
    # Rows of padding alone, which end a stream: nobody hears them, but they must be frames.
    numbers[:, 0] = np.where(numbers[:, 0] < 0, codes.shape[2] - numbers.shape[1], numbers[:, 0])
    arrays = {**arrays, "new_frames": numbers}
    compiled.refuse_window(described, codes, numbers)
    order, parts, new = described["inputs"].split(), [], arrays["new_frames"].shape[1]
    with torch.inference_mode():
        for piece in pieces(arrays):
            tensors = [torch.from_numpy(np.ascontiguousarray(piece[name])) for name in order]
            audio = module(*tensors).numpy()
            valid = piece["new_frames"].shape[1]
            padding = audio.shape[1] // valid * (new - valid)
            parts.append(np.pad(audio, ((0, 0), (0, padding))))
    return np.concatenate(parts)


def pieces(arrays: Arrays) -> Iterator[Arrays]:
    """A batch of windows as runs of at most `PIECE_FRAMES`, or of a single row, in order.

    Frames that are padding in all rows of a run, -1 in `new_frames`, are cut off.
    """
    codes, numbers = arrays["codes"], arrays["new_frames"]
    rows = max(1, PIECE_FRAMES // numbers.shape[1])
    for begin in range(0, len(numbers), rows):
        part = numbers[begin : begin + rows]
        padding = part.shape[1] - max(1, int((part >= 0).sum(axis=1).max()))
        yield {
            "codes": codes[begin : begin + rows, :, : codes.shape[2] - padding],
            "new_frames": part[:, : part.shape[1] - padding],
        }


def keep_memory() -> None:
    """Have glibc keep for the next layer what the last one has freed.

    Else it gives every large tensor back to the kernel, and the next one, made anew page by page,
    costs a convolution a third of its speed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries do without
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)
