"""The decoder by a GPU's kernels, in process, as it is served or in another precision."""

from typing import Any

import torch

from benchmarks.gpu_visit import artefacts
from benchmarks.gpu_visit.visit import Visit
from engine.codec.on_gpu import load as on_gpu
from engine.codec.on_gpu.decoder import GpuDecoder

# Of the kernels: dtype, and whether each product is a sum of three; the one that is served first.
PRECISIONS = {
    "fp16": (torch.float16, False),
    "fp16, sums of three": (torch.float16, True),
    "bf16": (torch.bfloat16, False),
}


def gpu_decoder(
    visit: Visit, made: artefacts.Artefacts, precision: str
) -> tuple[GpuDecoder, dict[str, Any]]:
    """The decoder by kernels, on a CPU by torch in their arithmetic; and what its file says."""
    from engine.kernels import rounded as operators

    if visit.device == "cuda":
        from engine.kernels import gpu_codec as operators
    dtype, split = PRECISIONS[precision]
    path = made.repository / "fish_decoder" / "1" / "model.pt"
    return on_gpu.load(path, torch.device(visit.device), dtype, operators, split)[:2]
