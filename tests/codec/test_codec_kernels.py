"""The codec's kernels against torch, whatever the shapes, and their order of summation."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F

from engine.codec import on_kernels as codec_kernels
from engine.codec.channels_last import SnakeTwin
from engine.codec.graphs import DecoderGraph
from engine.codec.int8 import Int8Conv
from engine.codec.on_kernels import KernelConv
from engine.kernels import transformer as kernels

pytestmark = pytest.mark.torch

if reason := kernels.fault():
    pytest.skip(reason, allow_module_level=True)

needs_vnni = pytest.mark.skipif(
    not torch.cpu._is_vnni_supported(), reason="int8 is for CPUs with VNNI"
)

needs_units = pytest.mark.skipif(
    not torch.ops.voicereel.has_units(), reason="without matrix units nothing is split in two"
)


def numbers(*extents: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(extents, generator=torch.Generator().manual_seed(seed))


def convolution(channels: int, outputs: int, taps: int, dilation: int = 1, stride: int = 1):
    """With random weights of variance 1 / fan-in."""
    conv = torch.nn.Conv2d(channels, outputs, (1, taps), (1, stride), dilation=(1, dilation))
    weight = numbers(outputs, channels, 1, taps, seed=1) / (channels * taps) ** 0.5
    conv.weight.data, conv.bias.data = weight, numbers(outputs, seed=2)
    return conv.requires_grad_(False)


def snake(channels: int) -> SnakeTwin:
    class Genuine:
        alpha = numbers(1, channels, 1, seed=3).exp()

    return SnakeTwin(Genuine()).requires_grad_(False)  # pyright: ignore[reportArgumentType]


def by_torch(conv, x: torch.Tensor, before: SnakeTwin | None) -> torch.Tensor:
    y = x.transpose(1, 2)[:, :, None]
    y = y if before is None else before(y, 0)
    return conv(y)[:, :, 0].transpose(1, 2)


@pytest.mark.parametrize("with_snake", [False, True])
@pytest.mark.parametrize(
    ("channels", "outputs", "taps", "dilation", "stride"),
    [(1, 5, 7, 1, 1), (96, 1, 7, 1, 1), (40, 70, 7, 9, 1), (64, 96, 8, 1, 4), (33, 32, 1, 1, 1)],
)
def test_convolutions(channels, outputs, taps, dilation, stride, with_snake) -> None:
    conv = convolution(channels, outputs, taps, dilation, stride)
    before = snake(channels) if with_snake else None
    kernel = KernelConv(conv, before)
    for time in (1 + (taps - 1) * dilation, 77, 700):
        x = 3 * numbers(2, time, channels)
        torch.testing.assert_close(kernel(x, 0), by_torch(conv, x, before), rtol=1e-4, atol=1e-4)


def test_snake_of_large_numbers() -> None:
    before, conv = snake(32), convolution(32, 32, 1)
    conv.weight.data = torch.eye(32)[:, :, None, None]
    x = 1000 * numbers(1, 50, 32)
    torch.testing.assert_close(
        KernelConv(conv, before)(x, 0), by_torch(conv, x, before), rtol=1e-4, atol=2e-3
    )


@needs_vnni
@pytest.mark.parametrize(("channels", "outputs"), [(32, 32), (96, 192), (40, 70)])
def test_convolutions_in_8_bits(channels, outputs) -> None:
    conv, before = convolution(channels, outputs, 7, 3), snake(channels)
    x = numbers(2, 300, channels)
    inputs = before(x.transpose(1, 2)[:, :, None], 0)
    int8 = Int8Conv(conv, inputs.amin((0, 2, 3)), inputs.amax((0, 2, 3)))
    found = KernelConv(int8, before)(x, 0)
    wanted = int8(inputs.contiguous(memory_format=torch.channels_last))[:, :, 0].transpose(1, 2)
    # But for inputs that lie half-way between two steps.
    assert (found - wanted).norm() <= 2e-3 * wanted.norm()


@pytest.mark.parametrize("kind", ["float", pytest.param("int8", marks=needs_vnni)])
def test_outputs_depend_neither_on_the_window_nor_on_company(kind) -> None:
    conv, before = convolution(96, 96, 7, 9), snake(96)
    if kind == "int8":
        conv = Int8Conv(conv, torch.full((96,), -4.0), torch.full((96,), 4.0))
    kernel, x = KernelConv(conv, before), numbers(3, 900, 96)
    whole = kernel(x, 0)
    for begin, end in pairwise((0, 1, 17, 18, 50, 300, whole.shape[1])):
        part = kernel(x[1:2, begin : end + 54], 0)
        assert torch.equal(part, whole[1:2, begin:end])


def test_before_the_first_time_inputs_are_zero() -> None:
    conv, before = convolution(32, 32, 7), snake(32)
    x = numbers(1, 40, 32)
    padded = F.pad(x[:, 10:], (0, 0, 10, 0))
    kernel = KernelConv(conv, before)
    assert torch.equal(kernel(x, 10), kernel(padded, 0))
    assert torch.equal(kernel(x, -3), kernel(x, 0))


@needs_units
def test_weights_split_in_two_are_float32_but_for_little() -> None:
    weight, x, norm = numbers(70, 192, seed=1) / 14, numbers(37, 192), numbers(192, seed=2)
    product = kernels.Product(weight, norm=norm, eps=1e-6, split=True)
    assert product.panels.dtype == torch.bfloat16
    found, exact = product(x), kernels.Product(weight, norm=norm, eps=1e-6)(x)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_two_bfloat16_make_a_weight_but_for_1_in_65_536() -> None:
    """Where they lie: of each step of 32 inputs the nearest, then what they lack; in pairs."""
    weight = numbers(64, 96, seed=1)
    parts = kernels.split_panels(weight)
    assert (parts.dtype, tuple(parts.shape[-1:])) == (torch.bfloat16, (2,))
    parts = parts.view(2, 3, 2, 16, 32, 2).float()  # panels, steps, parts, pairs, outputs, 2
    both = parts.sum(2).permute(0, 3, 1, 2, 4).reshape(64, 96)
    assert ((both - weight).abs() <= weight.abs() / 2**16).all()
    nearest = parts[:, :, 0].permute(0, 3, 1, 2, 4).reshape(64, 96)
    assert torch.equal(nearest, weight.bfloat16().float())


def test_shapes_that_do_not_fit_are_refused() -> None:
    kernel = KernelConv(convolution(32, 32, 7), None)
    with pytest.raises(RuntimeError, match="do not fit"):
        kernel(numbers(1, 20, 96), 0)


@pytest.mark.slow
def test_layers_in_one_pass_are_as_one_by_one(codec, monkeypatch) -> None:
    decoder = codec_kernels.ChannelsLastDecoder(DecoderGraph(codec))
    together = codec_kernels.KernelDecoder(decoder).eval()
    monkeypatch.setattr(codec_kernels, "_NARROW", 0)
    alone = codec_kernels.KernelDecoder(decoder).eval()
    assert len(together.layers) < len(alone.layers)
    codes = torch.randint(0, 64, (2, 10, 300), generator=torch.Generator().manual_seed(0))
    frames = torch.arange(300).repeat(2, 1)
    with torch.inference_mode():
        for new in (300, 299, 41, 1):  # in pieces of many tiles, of one, and not cut at all
            window = codes, frames[:, -new:]
            assert torch.equal(together(*window), alone(*window))
