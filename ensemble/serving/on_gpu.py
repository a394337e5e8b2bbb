"""The codec's decoder by a GPU's kernels instead of TorchScript, where that can be."""

from collections.abc import Callable

from ensemble.contract.artefact import FILE_OF_BACKEND
from ensemble.contract.settings import server_settings
from ensemble.serving.stand_in.batch import Run
from ensemble.serving.stand_in.served_model import ServedModel


def load_on_gpu(model: ServedModel, log: Callable[[str], None]) -> Run | None:
    """Build the decoder from `model.pt`, for the GPU of this instance.

    The encoder stays as it is exported, in float32: half precision changes codes.

    Args:
        model: Of a model that is no decoder, or not on a GPU, nothing is built.
        log: Takes one line, what is served and why.

    Returns:
        From the inputs of one run to its outputs, or None: serve the artefact.
    """
    is_decoder = {t.name for t in model.signature.inputs} == {"codes", "new_frames"}
    if model.gpu is None or not is_decoder or model.artefact.name != FILE_OF_BACKEND["pytorch"]:
        return None
    try:
        run, words = _load(model)
    except Exception as problem:  # whatever it is, TorchScript still serves
        log(f"{model.name}: serving {model.artefact.name} in float32, without kernels: {problem}")
        return None
    log(f"{model.name}: serving {model.artefact.name} by kernels for this GPU: {words}")
    return run


def _load(model: ServedModel) -> tuple[Run, str]:
    """Raises ValueError, if this machine or the settings cannot have it; torch raises others."""
    settings = server_settings()
    if not settings.use_kernels:
        raise ValueError("FISH_SPEECH_COMPILE is false")
    if settings.precision == "full":
        raise ValueError("FISH_SPEECH_PRECISION is full")

    import torch

    from engine.codec.on_gpu import load
    from engine.lm import on_gpu
    from engine.lm.placement import placement_for

    placement = placement_for(settings, f"cuda:{model.gpu}")
    if fault := on_gpu.fault():
        raise ValueError(fault)
    from engine.kernels import gpu_codec

    torch.cuda.set_device(placement.device)
    split = None if settings.precision == "half" else False
    where = model.artefact, placement.device, placement.dtype, gpu_codec
    decoder, described, words = load.load(*where, split)
    with torch.inference_mode():
        decoder.record(torch.cuda.graph_pool_handle())
    session = load.session(decoder, described)
    (output,) = (t.name for t in model.signature.outputs)
    return lambda arrays: {output: session(arrays)}, words
