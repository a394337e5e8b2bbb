"""The codec on kernels instead of the portable artefact, where this machine can run it."""

from collections.abc import Callable
from functools import partial

from engine.codec import package
from ensemble.contract.settings import ROUNDINGS, server_settings
from ensemble.serving.stand_in.batch import Run
from ensemble.serving.stand_in.served_model import ServedModel


def kernel_files(model: ServedModel) -> tuple[str, ...]:
    """Names of the files that may serve in place of the artefact, the fastest first."""
    filename = model.parameters.get(package.PARAMETER)
    return () if filename is None or model.gpu is not None else (package.INT8_FILE_NAME, filename)


def load_kernel_file(model: ServedModel, log: Callable[[str], None]) -> Run | None:
    """Load the file that the config names, if there is one and it fits.

    Args:
        model: Its parameter KERNELS_FILENAME names a file beside the artefact.
        log: Takes one line, which of the two is served and why.

    Returns:
        From the inputs of one run to its outputs, or None: serve the artefact.
    """
    if not (candidates := kernel_files(model)):
        return None
    problems: list[str] = []
    for candidate in candidates:
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
    """Load one file; None for 8 bits where they were not asked for, and for any encoder in 8 bits.

    Raises:
        ValueError: If this machine or the configuration cannot have it; torch raises others.
    """
    settings = server_settings()
    if not settings.use_kernels:
        raise ValueError("FISH_SPEECH_COMPILE is false")

    inputs = [t.name for t in model.signature.inputs]
    is_encoder, is_int8 = "waveform" in inputs, filename == package.INT8_FILE_NAME
    if is_int8 and (is_encoder or settings.precision not in ROUNDINGS):
        return None
    path = model.artefact.with_name(filename)
    if not path.is_file():
        how = " INT8=1" if is_int8 else ""
        raise ValueError(f"there is no {filename}: make export CHECKPOINT=DIR{how}")

    import torch  # heavy, and needed only from here: ONNX Runtime's stand-in does without

    from engine.codec.memory import keep_memory
    from engine.codec.session import DecoderSession, encode
    from engine.lm.placement import placement_for

    placement = placement_for(settings, "cpu")
    if fault := package.machine_fault():
        raise ValueError(fault)
    module, described = package.load(path)
    half = "float32" if placement.dtype == torch.float32 else "bfloat16"
    if problem := package.unfit(described, inputs, "int8" if placement.rounding else half):
        raise ValueError(problem)
    if described["instructions"] and not torch.ops.voicereel.has_units():
        raise ValueError("Linux keeps this process from the CPU's matrix units")
    keep_memory()
    (output,) = (t.name for t in model.signature.outputs)
    run = partial(encode, module, described) if is_encoder else DecoderSession(module, described)
    return lambda arrays: {output: run(arrays)}
