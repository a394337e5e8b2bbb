"""The native operators on numbers at the ends of their range, and what they leave alone."""

import pytest

torch = pytest.importorskip("torch")

import numpy as np
import torch.nn.functional as F

from engine.kernels import build
from engine.kernels.convolution import FusedConv
from engine.kernels.rounding import RoundedConvolution
from engine.kernels.transformer import FusedLinear
from engine.lm import sampler
from engine.lm.runner import PENALTY_FRAMES

pytestmark = pytest.mark.torch

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)


@pytest.mark.parametrize("width", [32, 36, 29])  # whole vectors, and a rest
def test_gates_far_from_zero(width) -> None:
    """exp(89) is more than a float32 holds: such a gate is closed, and not a number it is not."""
    gate = torch.tensor([-1e30, -1000.0, -89.0, -88.0, -87.0, -80.0, 0.0, 87.0, 89.0, 1000.0, 1e30])
    gate = gate.repeat(4)[:width][None]
    up = torch.arange(width)[None] / 8 - 2
    product = FusedLinear(torch.eye(width), gated=True)
    found = product(torch.cat([gate, up], dim=-1))
    torch.testing.assert_close(found, F.silu(gate) * up, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12, 1e12])
def test_norms_of_very_small_and_large_rows(scale) -> None:
    x = scale * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(-1, 2, 40)
    found = FusedLinear(torch.eye(40), norm=weight, eps=1e-6)(x)
    wanted = F.rms_norm(x, (40,), weight, 1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def integers(*extents: int) -> torch.Tensor:
    """From -127 to 127, each of which is a step of its row; half of them are the largest."""
    chance = torch.Generator().manual_seed(0)
    found = torch.randint(-127, 128, extents, generator=chance).float()
    found[torch.rand(extents, generator=chance) < 0.5] = 127.0
    found[..., 0] = 127.0
    return found


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 16, 33])
def test_sums_of_bytes_have_the_same_bits_on_every_cpu(rows) -> None:
    """Integers are summed exactly, and what follows is rounded in one order."""
    chance = torch.Generator().manual_seed(1)
    inputs, weights = integers(rows, 192), integers(70, 192)
    x = inputs * (0.5 + torch.rand(rows, 1, generator=chance))
    weight = weights * (0.5 + torch.rand(70, 1, generator=chance))
    bias, before = (torch.randn(n, 70, generator=chance) * 1e3 for n in (1, rows))
    product = FusedLinear(weight, bias[0], int8=True)
    scale = (x.abs().amax(dim=1, keepdim=True) * torch.tensor(1 / 127)) * product.scales
    sums = inputs.double() @ weights.double().T
    wanted = sums * scale.double() + (bias + before).double()  # rounded once, by a fused sum
    assert torch.equal(product(x, before), wanted.float())


@pytest.mark.parametrize("zero", [0, 255])
def test_the_largest_bytes_are_summed_exactly(zero) -> None:
    """Two products of such bytes are more than 16 bits hold."""
    weight, ones = torch.full((40, 64, 3), 127, dtype=torch.int8), torch.ones(64)
    weight[::2] = -127
    kernel = FusedConv(RoundedConvolution(weight, torch.ones(40), ones, zero))
    x = torch.full((1, 50, 64), 255.0 - 2 * zero)
    found = kernel(x, [0])
    assert torch.equal(found[0, :, 1], torch.full((48,), (255.0 - 2 * zero) * 64 * 3 * 127))
    assert torch.equal(found[0, :, 0], -found[0, :, 1])


@pytest.mark.parametrize("choices", [3, 8, 29, 513])
@pytest.mark.parametrize("allowed", [1, 2, 3])
def test_forbidden_tokens_are_never_chosen(choices, allowed) -> None:
    """Their logits are -inf: the mass of the others is 1, whatever the options and the penalty."""
    rows = 64
    chance = torch.Generator().manual_seed(choices)
    logits = torch.full((rows, choices), float("-inf"))
    allowed_at = torch.rand(rows, choices, generator=chance).topk(allowed).indices
    logits.scatter_(1, allowed_at, torch.randn(rows, allowed, generator=chance))
    previous = torch.randint(-1, choices, (rows, PENALTY_FRAMES), generator=chance)
    options = torch.rand(3, rows, generator=chance) * torch.tensor([[2.0], [1.0], [1.0]])
    options[2] += 1.0
    options[0, ::5], options[1, ::5], options[1, 1::5] = 0.0, 0.0, 1.0
    noise = torch.empty(rows, choices).exponential_(generator=chance)
    inputs = (logits, previous, *options, noise)
    found = torch.ops.voicereel.sample(*inputs)
    assert torch.isin(
        torch.arange(rows) * choices + found, (torch.arange(rows)[:, None] * choices + allowed_at)
    ).all()
    assert torch.equal(found, sampler.sample(*inputs))


def test_small_numbers_stay_what_they_are_in_all_the_process() -> None:
    """Libraries linked with -ffast-math let the CPU count denormal numbers as zero."""
    least = np.float32(1e-45)
    assert least * np.float32(2) / np.float32(2) == least > 0
    assert float(torch.tensor([1e-45]) * 1) > 0
