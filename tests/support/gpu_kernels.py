"""What tests of a GPU's kernels share. To import it skips a test file where kernels cannot run.

Without a GPU they run on the CPU, in the interpreter of OpenAI's Triton: see conftest.py.
"""

import os

import pytest

torch = pytest.importorskip("torch")
HAS_GPU = torch.cuda.is_available()
if not (HAS_GPU or os.environ.get("TRITON_INTERPRET") == "1"):
    pytest.skip("needs a GPU, or TRITON_INTERPRET=1 without one", allow_module_level=True)
pytest.importorskip("triton")

DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")


def numbers(*extents: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normally distributed, on the device; a function of extents and seed."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(extents, generator=chance).to(DEVICE, dtype)
