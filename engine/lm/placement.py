"""Where and how a language model runs: the server's settings in torch's terms."""

from dataclasses import dataclass

import torch

from engine.kernels.cpu import int8_fault
from ensemble.contract.settings import ROUNDINGS, ServerSettings

_DTYPES = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Attributes:
    device: Where the model runs.
    dtype: Of its weights and of its keys and values.
    rounding: Of the weights of the layers: "int8", "int4", or "". Without kernels those of 4
        bits have 8.
    use_kernels: Whether FISH_SPEECH_COMPILE allows kernels.
    """

    device: torch.device
    dtype: torch.dtype
    rounding: str = ""
    use_kernels: bool = True

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"


def placement_for(settings: ServerSettings, instance: str = "") -> Placement:
    """Place a model.

    Args:
        settings: What the server's environment asks for.
        instance: Where Triton placed this instance ("cpu", "cuda:1"); it yields only to an
            explicit FISH_SPEECH_DEVICE=cpu. "": the best device there is.

    Raises:
        ValueError: If this machine lacks what is asked for.
    """
    has_gpu = torch.cuda.is_available()
    if settings.device == "cuda" and not has_gpu:
        raise ValueError("FISH_SPEECH_DEVICE is cuda, but torch sees no GPU. Use cpu, or fix CUDA.")
    found = settings.device or ("cuda" if has_gpu else "cpu")
    device = torch.device("cpu" if settings.device == "cpu" else instance or found)
    rounding = settings.precision if settings.precision in ROUNDINGS else ""
    fault = int8_fault() if device.type == "cpu" else f"the model is on {device}"
    if rounding and fault:
        raise ValueError(
            f"FISH_SPEECH_PRECISION is {rounding}, which is for CPUs with AVX2; {fault}. Use half."
        )
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    return Placement(device, _DTYPES.get(settings.precision, half), rounding, settings.use_kernels)
