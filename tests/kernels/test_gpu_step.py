"""What a decode step's kernels take in, against torch: products and attention of one position."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import torch.nn.functional as F

from engine.kernels import gpu_attend_one, gpu_product
from engine.kernels.norm import rms_norm
from support.gpu_kernels import DEVICE, needs_gpu, numbers

pytestmark = [pytest.mark.torch, pytest.mark.slow]
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)


@TYPES
@pytest.mark.parametrize(
    ("past", "room"), [(0, 640), (1, 640), (63, 640), (64, 640), (128, 640), (600, 640), (0, 16),
                       (15, 16)]
)  # fmt: skip
def test_attention_of_one_new_position(dtype, past, room) -> None:
    """Which is cached by the way; a row's room decides whether it is cut."""
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


@TYPES
@pytest.mark.parametrize(("rows", "width", "outputs"), [(1, 40, 20), (17, 300, 33)])
def test_a_product_with_what_lies_around_it(dtype, rows, width, outputs) -> None:
    """Of sizes that fill no tile."""
    x, weight = numbers(rows, width, dtype=dtype), numbers(2 * outputs, width, seed=1, dtype=dtype)
    weight *= width**-0.5
    scale, bias = numbers(width, seed=2, dtype=dtype), numbers(2 * outputs, seed=3, dtype=dtype)
    residual = numbers(rows, 2 * outputs, seed=4, dtype=dtype)
    y = F.linear(rms_norm(x, scale, 1e-6), weight)
    near: dict = {"rtol": 5e-3, "atol": 5e-3} if dtype == torch.float16 else {}
    torch.testing.assert_close(gpu_product.project(x, weight, norm=(scale, 1e-6)), y, **near)
    gate, up = y.chunk(2, dim=1)
    found = gpu_product.project(x, weight, norm=(scale, 1e-6), gated=True)
    torch.testing.assert_close(found, F.silu(gate) * up, **near)
    found = gpu_product.project(x, weight, bias, residual=residual)
    torch.testing.assert_close(found, residual + F.linear(x, weight, bias), **near)


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_rows_product_has_the_same_bits_beside_any_number_of_others(dtype) -> None:
    x, weight = numbers(64, 1024, dtype=dtype), numbers(6144, 1024, seed=1, dtype=dtype)
    for gated in (False, True):
        whole = gpu_product.project(x, weight, norm=(x[0], 1e-6), gated=gated)
        for rows in (1, 2, 16, 17, 33):
            found = gpu_product.project(x[:rows], weight, norm=(x[0], 1e-6), gated=gated)
            assert torch.equal(found, whole[:rows])
