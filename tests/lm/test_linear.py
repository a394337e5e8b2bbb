"""Rounding to 8 bits, the products of what it gives, and rotary embedding in both layouts."""

import pytest

torch = pytest.importorskip("torch")

from engine.kernels.rotary import rotate, rotation
from engine.kernels.rounding import LARGEST, ZERO, rounded_rows, rounded_weight
from engine.lm.linear import PackedInt8Linear
from support.engine import needs_int8

pytestmark = pytest.mark.torch


def test_weights_are_rounded_to_the_nearest_step_of_their_output() -> None:
    weight = torch.randn(5, 3, 7, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    rounded, scale = rounded_weight(weight)
    assert (rounded.dtype, rounded.shape, scale.shape) == (torch.int8, weight.shape, (5,))
    assert rounded.abs().amax(dim=(1, 2)).tolist() == [LARGEST, LARGEST, 0, LARGEST, LARGEST]
    off = (rounded * scale[:, None, None] - weight).abs()
    assert (off <= 0.5001 * scale[:, None, None]).all()


def test_rows_are_rounded_by_themselves_and_halves_up() -> None:
    x = torch.tensor([[127.0, 0.5, -0.5, -127.0], [0.0, 0.0, 0.0, 0.0], [1.27, 0.0, 0.01, 0.02]])
    rounded, scale = rounded_rows(x)
    assert rounded.dtype == torch.uint8
    assert (rounded.int() - ZERO).tolist() == [[127, 1, 0, -127], [0] * 4, [127, 0, 1, 2]]
    torch.testing.assert_close(scale[[0, 2], 0], torch.tensor([1.0, 0.01]))
    for row in range(len(x)):
        assert torch.equal(rounded_rows(x[row : row + 1])[0][0], rounded[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rotation_is_a_complex_product_in_both_layouts(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, 3, 8, generator=generator).to(dtype)  # batch, time, heads, dim
    angles = torch.randn(2, 5, 4, generator=generator)
    cos_sin = torch.stack([angles.cos(), angles.sin()], dim=-1)
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)[:, :, None]
    wanted = torch.view_as_real(turned).flatten(-2).to(dtype)
    found = rotate(x, rotation(cos_sin[:, :, None]))
    torch.testing.assert_close(found, wanted)
    heads_first = rotate(x.transpose(1, 2), rotation(cos_sin[:, None]))
    assert torch.equal(heads_first.transpose(1, 2), found)


@needs_int8
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 17])
def test_int8_product_is_exact_but_for_the_rounding_of_its_operands(rows) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(17, 64, generator=generator) * torch.logspace(-3, 3, 17)[:, None]
    weight = torch.randn(96, 64, generator=generator)
    got = PackedInt8Linear(weight, None)(x[:rows])
    scales = [t.abs().amax(dim=1, keepdim=True) / 127 for t in (x, weight)]
    a, b = ((t / s).round().double() for t, s in zip((x, weight), scales, strict=True))
    expected = (a @ b.T) * scales[0].double() * scales[1].double().T
    torch.testing.assert_close(got.double(), expected[:rows], rtol=1e-6, atol=1e-9)
    assert ((got - x[:rows] @ weight.T).norm() / got.norm()).item() < 0.02


@needs_int8
def test_int8_products_of_the_largest_numbers_are_exact() -> None:
    """Two of them are more than 16 bits hold, to which some CPUs' instructions cut them off."""
    x, weight = torch.full((3, 64), 2.0), torch.full((32, 64), -3.0)
    x[1] = -2.0
    found = PackedInt8Linear(weight, None)(x)
    torch.testing.assert_close(found, x @ weight.T, rtol=1e-6, atol=0.0)
