"""Which GPUs start kernels early."""

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from engine.kernels import gpu_early

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("device", "capability", "hip", "is_early"),
    [("cuda", (9, 0), None, True), ("cuda", (12, 0), None, True), ("cuda", (8, 9), None, False),
     ("cuda", (9, 4), "7.0", False), ("cpu", None, None, False)],
)  # fmt: skip
def test_from_hopper_on(device, capability, hip, is_early, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    gpu_early.can.cache_clear()
    x: Any = SimpleNamespace(device=torch.device(device))
    wanted = {"EARLY": True, "launch_pdl": True} if is_early else {"EARLY": False}
    assert gpu_early.options(x) == wanted
    gpu_early.can.cache_clear()
