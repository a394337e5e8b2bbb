"""What a decode step's kernels take in, against torch: products and attention of one position."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import torch.nn.functional as F

from engine.kernels import gpu, gpu_attend_one, gpu_product
from engine.kernels.norm import rms_norm
from support.gpu_kernels import DEVICE, needs_gpu, numbers

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)


@TYPES
@pytest.mark.parametrize(
    ("past", "room"), [(0, 640), (1, 640), (63, 640), (64, 640), (128, 640), (600, 640), (0, 16),
                       (15, 16)]
)  # fmt: skip
def test_attention_of_one_new_position(dtype, past, room, monkeypatch) -> None:
    """Which is cached by the way; a row's room decides whether it is cut.

    Memory that is not written holds anything.
    """
    empty = torch.Tensor.new_empty

    def used(x: torch.Tensor, *extents: int, **how: Any) -> torch.Tensor:
        made = empty(x, *extents, **how)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch.Tensor, "new_empty", used)
    heads, dim = 3, 24
    keys, values = (numbers(1, 1, room, dim, seed=s, dtype=dtype) for s in (1, 2))
    q = numbers(1, heads, dim, dtype=dtype)
    wanted = F.scaled_dot_product_attention(
        q.float(), keys[0, :, : past + 1].float(), values[0, :, : past + 1].float()
    )
    new = keys[0, 0, past].clone(), values[0, 0, past].clone()
    for tensor in (keys, values):
        tensor[:, :, past:] = float("nan")
    still = torch.tensor([1.0, 0.0], device=DEVICE).expand(room, dim // 2, 2).contiguous()
    found = gpu_attend_one.attend_one(
        torch.cat([q.flatten(), *new])[None], None, 0.0, still,
        torch.tensor([past], device=DEVICE), keys, values,
    )  # fmt: skip
    torch.testing.assert_close(found.float(), wanted.flatten()[None], rtol=2e-3, atol=2e-3)
    assert torch.equal(keys[0, 0, past], new[0])
    assert torch.equal(values[0, 0, past], new[1])
    assert keys[:, :, past + 1 :].isnan().all()


@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize(("width", "outputs"), [(40, 20), (700, 33), (1030, 40)])
def test_a_product_with_what_lies_around_it(rows, width, outputs) -> None:
    """Of sizes that fill no tile, in one turn, two and three; outputs and depth in parts."""
    dtype, near = torch.float16, {"rtol": 5e-3, "atol": 5e-3}
    x, weight = numbers(rows, width, dtype=dtype), numbers(2 * outputs, width, seed=1, dtype=dtype)
    weight *= width**-0.5
    bias = numbers(2 * outputs, seed=3, dtype=dtype)
    y = F.linear(x, weight)
    torch.testing.assert_close(gpu_product.project(x, weight), y, **near)
    torch.testing.assert_close(gpu_product.project(x, weight, bias), y + bias, **near)
    gate, up = y.chunk(2, dim=1)
    found = gpu_product.project(x, weight, gated=True)
    torch.testing.assert_close(found, F.silu(gate) * up, **near)
    residual, scale = (numbers(rows, 2 * outputs, seed=s, dtype=dtype) for s in (4, 5))
    parts = gpu_product.project_in_parts(x, weight, bias)
    assert len(parts) == 1 + (width > 1024)
    total, normed = gpu.add_norm(residual, parts, scale[0], 1e-6)
    torch.testing.assert_close(total, residual + y + bias, **near)
    torch.testing.assert_close(normed, rms_norm(total, scale[0], 1e-6), **near)


@pytest.mark.parametrize("dim", [40, 700])
def test_tokens_and_codes_are_embedded(dim) -> None:
    """Codes count beside some tokens, the first and the last of these included."""
    table, codes = (numbers(n, dim, seed=n, dtype=torch.float16) for n in (20, 3 * 7))
    tokens = torch.tensor([[4, 6, 0, 3], [5, 1, 2, 3], [9, 6, 6, 6], [10, 0, 0, 0]], device=DEVICE)
    found = gpu.embed(tokens, table, gpu.Codes(codes, 7, 5, 9, 2.0))
    wanted = table[tokens[:, 0]]
    assert torch.equal(gpu.embed(tokens[:, 0].contiguous(), table), wanted)
    offset = 7 * torch.arange(3, device=DEVICE)
    whole = (wanted + codes[tokens[:, 1:] + offset].sum(dim=1)) / 2.0
    wanted[1:3] = whole[1:3]
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("width", "outputs"), [(1024, 6144), (2560, 19456), (3072, 1024)])
def test_a_rows_product_has_the_same_bits_beside_any_number_of_others(
    dtype, width, outputs
) -> None:
    x, weight = numbers(64, width, dtype=dtype), numbers(outputs, width, seed=1, dtype=dtype)
    ways = {
        "plain": gpu_product.project,
        "gated": lambda *given: gpu_product.project(*given, gated=True),
        "parts": gpu_product.project_in_parts,
    }
    for name, project in ways.items():
        whole = project(x, weight)
        for rows in (1, 2, 16, 17, 33):
            found = project(x[:rows].contiguous(), weight)
            assert torch.equal(found, whole[..., :rows, :]), (name, rows)
