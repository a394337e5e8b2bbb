"""Convolutions on kernels against torch's, for all shapes, and their order of summation."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F
from torch import Tensor

from engine.codec.decoder import DecoderGraph
from engine.codec.on_kernels import decoder as on_kernels
from engine.kernels import build
from engine.kernels.convolution import FusedConv
from engine.kernels.panels import split_panels
from engine.kernels.rounding import RoundedConvolution, rounded_convolution

pytestmark = pytest.mark.torch

if reason := build.fault():
    pytest.skip(reason, allow_module_level=True)


def numbers(*extents: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(extents, generator=torch.Generator().manual_seed(seed))


def weights(channels: int, outputs: int, taps: int) -> tuple[Tensor, Tensor]:
    """Random weight of variance 1 / fan-in, and bias."""
    weight = numbers(outputs, channels, taps, seed=1) / (channels * taps) ** 0.5
    return weight, numbers(outputs, seed=2)


def snake(channels: int) -> tuple[Tensor, Tensor]:
    alpha = numbers(channels, seed=3).exp()
    return alpha, 1 / alpha


def snaked(x: Tensor, before: tuple[Tensor, Tensor] | None) -> Tensor:
    return x if before is None else x + before[1] * torch.sin(before[0] * x).square()


def by_torch(weight, bias, x: Tensor, before=None, dilation: int = 1, stride: int = 1) -> Tensor:
    y = snaked(x, before).transpose(1, 2)
    return F.conv1d(y, weight, bias, stride, dilation=dilation).transpose(1, 2)


@pytest.mark.parametrize("with_snake", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "taps", "dilation", "stride"),
    [(1, 5, 7, 1, 1), (96, 1, 7, 1, 1), (40, 70, 7, 9, 1), (64, 96, 8, 1, 4), (33, 32, 1, 1, 1)],
)
def test_convolutions(channels, outputs, taps, dilation, stride, with_snake) -> None:
    plain, steps = weights(channels, outputs, taps), {"dilation": dilation, "stride": stride}
    before = snake(channels) if with_snake else None
    kernel = FusedConv(*plain, before, **steps)
    for time in (1 + (taps - 1) * dilation, 77, 700):
        x = 3 * numbers(2, time, channels)
        expected = by_torch(*plain, x, before, **steps)
        torch.testing.assert_close(kernel(x, [0]), expected, rtol=1e-4, atol=1e-4)


def test_snake_of_large_numbers() -> None:
    before, weight, bias = snake(32), torch.eye(32)[:, :, None], numbers(32, seed=2)
    x = 1000 * numbers(1, 50, 32)
    found = FusedConv(weight, bias, before)(x, [0])
    torch.testing.assert_close(found, by_torch(weight, bias, x, before), rtol=1e-4, atol=2e-3)


def by_integers(rounded: RoundedConvolution, bias, x: Tensor, dilation: int) -> Tensor:
    """A convolution in 8 bits, computed in double precision, which holds its sums exactly."""
    steps = (x * rounded.per_unit + rounded.zero).round().clamp(0, 255) - rounded.zero
    sums = F.conv1d(steps.double().transpose(1, 2), rounded.weight.double(), dilation=dilation)
    return (sums * rounded.scale[:, None] + bias[:, None]).float().transpose(1, 2)


@pytest.mark.parametrize(("channels", "outputs"), [(32, 32), (96, 192), (40, 70)])
def test_convolutions_in_8_bits(channels, outputs) -> None:
    (weight, bias), before = weights(channels, outputs, 7), snake(channels)
    x = numbers(2, 300, channels)
    inputs = snaked(x, before)
    rounded = rounded_convolution(weight, inputs.amin((0, 1)), inputs.amax((0, 1)))
    found = FusedConv(rounded, bias, before, dilation=3)(x, [0])
    wanted = by_integers(rounded, bias, inputs, 3)
    # But for inputs that lie half-way between two steps.
    assert (found - wanted).norm() <= 2e-3 * wanted.norm()


def test_integers_are_exact_and_zero_stays_zero() -> None:
    weight, bias = weights(32, 48, 7)
    x = numbers(2, 50, 32)
    rounded = rounded_convolution(weight, x.amin((0, 1)), 2 * x.amax((0, 1)))
    kernel = FusedConv(rounded, bias, dilation=3)
    found, wanted = kernel(x, [0]), by_integers(rounded, bias, x, 3)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    exact = by_torch(weight, bias, x, dilation=3)
    assert (found - exact).norm() <= 0.02 * exact.norm()
    nothing = kernel(torch.zeros_like(x), [0])
    assert torch.equal(nothing, bias.expand_as(nothing))


@pytest.mark.parametrize("kind", ["float", "int8"])
def test_outputs_depend_neither_on_the_window_nor_on_the_batch(kind) -> None:
    (weight, bias), before = weights(96, 96, 7), snake(96)
    if kind == "int8":
        weight = rounded_convolution(weight, torch.full((96,), -4.0), torch.full((96,), 4.0))
    kernel, x = FusedConv(weight, bias, before, dilation=9), numbers(3, 900, 96)
    whole = kernel(x, [0])
    for begin, end in pairwise((0, 1, 17, 18, 50, 300, whole.shape[1])):
        part = kernel(x[1:2, begin : end + 54], [0])
        assert torch.equal(part, whole[1:2, begin:end])


def test_before_the_audio_inputs_are_zero() -> None:
    kernel = FusedConv(*weights(32, 32, 7), snake(32))
    x = numbers(1, 40, 32)
    padded = F.pad(x[:, 10:], (0, 0, 10, 0))
    assert torch.equal(kernel(x, [10]), kernel(padded, [0]))
    assert torch.equal(kernel(x, [-3]), kernel(x, [0]))


def test_shapes_that_do_not_fit_are_refused() -> None:
    kernel = FusedConv(*weights(32, 32, 7))
    with pytest.raises(RuntimeError, match="do not fit"):
        kernel(numbers(1, 20, 96), [0])


def test_two_bfloat16_make_a_weight_but_for_1_in_65_536() -> None:
    """For each step of 32 inputs their nearest bfloat16 come first, then what these lack."""
    weight = numbers(64, 96, seed=1)
    parts = split_panels(weight)
    assert (parts.dtype, tuple(parts.shape[-1:])) == (torch.bfloat16, (2,))
    parts = parts.view(2, 3, 2, 16, 32, 2).float()  # panels, steps, parts, pairs, outputs, 2
    both = parts.sum(2).permute(0, 3, 1, 2, 4).reshape(64, 96)
    assert ((both - weight).abs() <= weight.abs() / 2**16).all()
    nearest = parts[:, :, 0].permute(0, 3, 1, 2, 4).reshape(64, 96)
    assert torch.equal(nearest, weight.bfloat16().float())


@pytest.mark.slow
def test_layers_in_one_pass_are_as_one_by_one(codec, monkeypatch) -> None:
    graph = DecoderGraph(codec)
    together = on_kernels.KernelDecoder(graph).eval()
    monkeypatch.setattr(on_kernels, "_NARROW", 0)
    alone = on_kernels.KernelDecoder(graph).eval()
    assert len(together.layers) < len(alone.layers)
    codes = torch.randint(0, 64, (2, 10, 300), generator=torch.Generator().manual_seed(0))
    frames = torch.arange(300).repeat(2, 1)
    with torch.inference_mode():
        for new in (300, 299, 41, 1):  # in pieces of many tiles, of one, and not cut at all
            window = codes, frames[:, -new:]
            assert torch.equal(together(*window), alone(*window))
