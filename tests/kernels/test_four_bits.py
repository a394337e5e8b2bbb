"""Weights of 4 bits: how they are rounded, and products with them against their reference."""

import pytest

torch = pytest.importorskip("torch")

from engine.kernels import build
from engine.kernels.rounding import GROUP, SMALL_ZERO, ZERO, rounded_groups, rounded_rows
from engine.kernels.transformer import FusedLinear
from support.engine import needs_int8

pytestmark = pytest.mark.torch

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)


def numbers(*extents: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(extents, generator=torch.Generator().manual_seed(seed))


def test_4_bit_weights_are_what_they_are_rounded_to() -> None:
    weight = torch.tensor([[0.0] * 32, [-8.0, 7.0, 0.4, 0.6] * 8, [1.0, -0.5, 0.3, 4.0] * 8])
    rounded, scales = rounded_groups(weight)
    assert rounded[0].tolist() == [SMALL_ZERO] * 32
    assert rounded[1, :4].tolist() == [0, 15, 8, 9]
    assert rounded[2, :4].tolist() == [6, 9, 7, 0]  # the largest is 8 steps, of -0.5
    assert scales.tolist() == [[0], [1], [-0.5]]


@needs_int8
@pytest.mark.parametrize("rows", [1, 2, 5, 19])
@pytest.mark.parametrize("depth", [32, 96, 1024])
def test_4_bit_products(rows, depth) -> None:
    """Inputs have 8 bits; the sums of a group are exact, also the largest that there are."""
    x, weight = numbers(rows, depth), numbers(70, depth, seed=1).bfloat16()
    x[0], weight[0] = 1, torch.tensor([-8.0, 7.0]).repeat(depth // 2)
    weight[1] = 7
    weight[1, ::32] = -8
    linear, (rounded, scales) = FusedLinear(weight, int4=True), rounded_groups(weight)
    kept = (rounded.double() - SMALL_ZERO).unflatten(1, (-1, GROUP)) * scales[..., None].double()
    inputs, scale = rounded_rows(x)
    expected = (inputs.double() - ZERO) @ kept.flatten(1).T * scale
    torch.testing.assert_close(linear(x), expected.float(), rtol=1e-5, atol=1e-5 * depth**0.5)
    assert ((linear(x) - x @ weight.float().T).norm() / linear(x).norm()).item() < 0.12
    assert torch.equal(linear(x[-1:]), linear(x)[-1:])


@needs_int8
def test_4_bit_products_of_other_depths_have_8() -> None:
    assert FusedLinear(numbers(70, 48), int4=True).panels.dtype == torch.int8
    assert FusedLinear(numbers(70, 46), int4=True).panels.dtype == torch.float32
    broken = FusedLinear(numbers(70, 64), int4=True)
    broken.panels = broken.panels[:, :1].contiguous()
    with pytest.raises(RuntimeError, match="do not fit 64 inputs and 70 outputs"):
        broken(numbers(1, 64))
