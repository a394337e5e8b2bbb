"""Where and how a language model runs: the server's settings in torch's terms."""

from dataclasses import dataclass

import torch

from engine.kernels.cpu import int8_fault
from ensemble.contract.settings import ServerSettings

_DTYPES = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Placement:
    """Attributes:
    device: Where the model runs.
    dtype: Of its weights and of its keys and values.
    int8: Whether the weights of the layers are rounded to 8 bits.
    use_kernels: Whether FISH_SPEECH_COMPILE allows kernels.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool = False
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
    int8 = settings.precision == "int8"
    if int8 and (fault := int8_fault() if device.type == "cpu" else f"the model is on {device}"):
        raise ValueError(
            f"FISH_SPEECH_PRECISION is int8, which is for CPUs with AVX2; {fault}. Use half."
        )
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    return Placement(device, _DTYPES.get(settings.precision, half), int8, settings.use_kernels)
