"""How the engine is deployed: the documented environment variables, parsed once.

What the model *is* comes from its checkpoint, what a caller *asks* comes with the request.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Settings:
    """Attributes:
    device: Where the engine runs.
    dtype: Of its weights, activations and KV cache.
    slots: Requests decoded together, at most; 0: as many as there is memory for.
    int8: Whether the layers' weights are rounded to 8 bits.
    threads: Of the engine on a CPU; 0: as torch has it.
    """

    device: torch.device
    dtype: torch.dtype
    slots: int
    int8: bool = False
    threads: int = 0


def settings_from(environment: Mapping[str, str] = os.environ, device: str = "") -> Settings:
    """Read the environment.

    Args:
        environment: FISH_SPEECH_DEVICE, FISH_SPEECH_PRECISION, VOICEREEL_BATCH_SIZE,
            VOICEREEL_LLAMA_THREADS are read.
        device: Where Triton placed this instance (`cpu`, `cuda:1`); it yields only to an explicit
            FISH_SPEECH_DEVICE=cpu.

    Raises:
        ValueError: If a value is not one of those documented.
    """
    asked = environment.get("FISH_SPEECH_DEVICE", "").strip().lower()
    if asked not in ("", "cpu", "cuda"):
        raise ValueError(f"FISH_SPEECH_DEVICE is {asked!r}, expected cpu or cuda.")
    if asked == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "FISH_SPEECH_DEVICE is cuda, but torch sees no GPU. Use cpu, or mend CUDA."
        )
    default = asked or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device("cpu" if asked == "cpu" else device or default)
    dtype, int8 = _precision(environment, chosen)
    slots, threads = (
        _whole(environment, f"VOICEREEL_{name}") for name in ("BATCH_SIZE", "LLAMA_THREADS")
    )
    return Settings(chosen, dtype, slots, int8, threads)


def _precision(environment: Mapping[str, str], device: torch.device) -> tuple[torch.dtype, bool]:
    """Dtype, and whether the weights are 8-bit."""
    precision = environment.get("FISH_SPEECH_PRECISION", "half").strip().lower()
    forced = {"full": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision in forced:
        return forced[precision], False
    if precision not in ("half", "int8"):
        raise ValueError(
            f"FISH_SPEECH_PRECISION is {precision!r}, expected half, full, bf16, fp16 or int8."
        )
    int8 = precision == "int8"
    if int8 and (device.type != "cpu" or not torch.cpu._is_vnni_supported()):
        # Without VNNI, sums of 8-bit products saturate.
        raise ValueError("FISH_SPEECH_PRECISION is int8, which needs a CPU with AVX-512 VNNI.")
    return torch.float16 if device.type == "cuda" else torch.bfloat16, int8


def _whole(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "0").strip()
    if not text.isdecimal() or int(text) > 1024:
        raise ValueError(f"{name} is {text!r}, expected 0 (automatic) to 1024.")
    return int(text)
