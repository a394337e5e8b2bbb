"""The codec's kernels of a GPU against torch; without one in OpenAI's Triton's interpreter."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from engine.kernels import gpu_codec, rounded
from support.gpu_kernels import DEVICE, HAS_GPU, numbers

pytestmark = pytest.mark.torch
gpu = pytest.mark.skipif(not HAS_GPU, reason="the interpreter multiplies no bfloat16")


def conv(taps: int, channels: int, outputs: int, dtype=torch.float16, split=False, **how):
    weight = numbers(outputs, channels, taps, seed=taps) * (taps * channels) ** -0.5
    return rounded.conv_of(weight, numbers(outputs, seed=9), dtype, split, **how)


def both(x, *given, **how) -> None:
    """The same by torch; half precision may round a sum to its neighbour."""
    found, wanted = (module.convolve(x, *given, **how) for module in (gpu_codec, rounded))
    exact = {"rtol": 1e-5, "atol": 2e-5}
    near = exact if given[1] == torch.float32 else {"rtol": 2e-3, "atol": 1e-3}
    torch.testing.assert_close(found[0], wanted[0], **near)
    if wanted[1] is None:
        assert found[1] is None
    else:
        torch.testing.assert_close(found[1], wanted[1], **exact)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=gpu)], ids=str)
def test_a_dilated_convolution_and_the_snake_behind_it(dtype, split) -> None:
    """What goes into the Snake is kept; the first row begins with silence, the second does not."""
    x, operand = numbers(2, 70, 37), torch.float32 if split else dtype
    history = torch.tensor([3, 50], device=DEVICE)
    both(
        x.to(operand), conv(3, 37, 20, dtype, split, dilation=9), operand,
        residual=numbers(2, 55, 20, seed=3)[:, 3:], beginning=(history, 40, 4),
        activation=numbers(20, seed=4).abs(), keep=True,
    )  # fmt: skip


def test_a_transposed_convolution() -> None:
    """Outputs of one input lie side by side; the Snake's factors and the silence go by time."""
    weight = numbers(20, 6, 8, seed=1)  # channels, outputs, kernel of stride 4
    x, bias = numbers(1, 12, 20).half(), numbers(6, seed=2)
    from engine.codec.layers import phases

    plain = rounded.conv_of(phases(weight, 4), bias.repeat(4), torch.float16, False, times=4)
    found, _ = gpu_codec.convolve(x, plain, torch.float32)
    wanted = torch.nn.functional.conv_transpose1d(
        x.float().transpose(1, 2), weight.half().float(), bias, stride=4
    )
    wanted = wanted.transpose(1, 2)[:, 4:-4]
    torch.testing.assert_close(found.view(1, 44, 6), wanted, rtol=1e-4, atol=1e-4)
    begins = torch.tensor([2], device=DEVICE), 13, 4
    both(x, plain, torch.float32, beginning=begins, activation=numbers(6, seed=4))


def test_a_perceptrons_layer() -> None:
    both(numbers(2, 5, 48), conv(1, 48, 33), torch.float16, activation="gelu")
    both(numbers(2, 5, 48), rounded.Conv(numbers(1, 48, 16).half(), None, None), torch.float32)


def test_a_result_depends_neither_on_its_place_nor_on_other_rows() -> None:
    """To the last bit."""
    x, layer = numbers(2, 100, 40).half(), conv(3, 40, 24)
    whole, _ = gpu_codec.convolve(x, layer, torch.float32)
    for begin in (64, 67):
        part, _ = gpu_codec.convolve(x[1:2, begin:], layer, torch.float32)
        if HAS_GPU or begin % gpu_codec._TIMES == 0:
            assert torch.equal(part[0], whole[1, begin:])
        else:  # NumPy, which the interpreter multiplies with, looks at the place in a tile
            torch.testing.assert_close(part[0], whole[1, begin:], rtol=0, atol=2e-6)


def test_attention_to_a_window() -> None:
    """Behind nothing, a part of a window, a whole one; what is not seen is no number."""
    window, time = 20, 7
    known = torch.tensor([0, 5, window], device=DEVICE)
    keys = numbers(3, 2, 2, window + time, 24, seed=1).half()
    for row, count in enumerate(known):
        keys[row, :, :, : window - int(count)] = 0.0
    given = numbers(3, time, 2, 24), keys[:, 0], keys[:, 1], known
    wanted = rounded.attend(*given)
    for row, count in enumerate(known):
        keys[row, :, :, : window - int(count)] = float("nan")
    found = gpu_codec.attend(*given)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    later = keys[2:, :, :, 4:].contiguous()
    later = gpu_codec.attend(given[0][2:, 4:], later[:, 0], later[:, 1], known[2:])
    assert torch.equal(later[0], found[2, 4:])


def test_norms_and_gates() -> None:
    x, weight = numbers(2, 3, 40), numbers(40, seed=1)
    torch.testing.assert_close(gpu_codec.norm(x, weight, 1e-5), rounded.norm(x, weight, 1e-5))
    torch.testing.assert_close(gpu_codec.gated(x), rounded.gated(x))
