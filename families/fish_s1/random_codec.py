"""Random weights for the codec, scaled so that codes vary and the audio is audible.

With upstream's initialisation the decoder is almost silent. Here one decoding and one encoding set
every convolution's scale and bias so that its output has mean 0 and deviation 1, as batch
normalisation would, and the last one's so that the audio is as loud as speech.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from families.fish_s1.codec import fill_codec
from families.fish_s1.upstream import DAC

_LOUDNESS = 0.2  # rms of the audio, full scale 1
_LAYER_SCALE = 0.3  # upstream starts at 0.01 and 1e-6, where transformers could be left out
_FRAMES = 24  # frames decoded and encoded to measure the outputs
_CONVOLUTIONS = (nn.Conv1d, nn.ConvTranspose1d)


def random_codec(
    codec: DAC, generator: torch.Generator, step: Callable[[], None]
) -> dict[str, Tensor]:
    """Weights for a codec.

    Args:
        codec: Upstream's class, on the meta device; it is filled.
        generator: Source of every number.
        step: Called once for each tensor made.

    Returns:
        float32 tensors under the names of upstream's state dict, without its tables.
    """
    weights: dict[str, Tensor] = {}
    for name, parameter in codec.named_parameters():
        weights[name] = _random(name, parameter, generator)
        step()
    for name in weights:  # weight norm: a magnitude for each row of the direction
        for magnitude, direction in (("original0", "original1"), ("weight_g", "weight_v")):
            if name.endswith(magnitude):
                rows = weights[name.replace(magnitude, direction)]
                weights[name] = torch.linalg.vector_norm(rows, dim=(1, 2), keepdim=True)
    _level(fill_codec(codec, weights), generator)
    return {name: parameter.detach() for name, parameter in codec.named_parameters()}


def _random(name: str, parameter: nn.Parameter, generator: torch.Generator) -> Tensor:
    shape = tuple(parameter.shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name.endswith("gamma"):
        return torch.full(shape, _LAYER_SCALE)
    if parameter.ndim == 1 or name.endswith("alpha"):
        return torch.ones(shape)
    weight = torch.randn(shape, generator=generator)
    return weight if "codebook" in name else weight / math.sqrt(math.prod(shape[1:]))


@torch.no_grad()
def _level(codec: DAC, generator: torch.Generator) -> None:
    """Set scale and bias of every convolution, each the first time that it is used."""
    levelled: set[nn.Module] = set()
    last = [module for module in codec.decoder.modules() if isinstance(module, nn.Conv1d)][-1]

    def level(module: Any, _: object, output: Tensor) -> Tensor | None:
        if module in levelled:
            return None
        levelled.add(module)
        mean = output.mean((0, 2), keepdim=True)
        scale = (_LOUDNESS if module is last else 1) / (output - mean).std()
        _magnitude(module).mul_(scale)
        module.bias.sub_(mean.flatten()).mul_(scale)
        return (output - mean) * scale

    hooks = [
        m.register_forward_hook(level) for m in codec.modules() if isinstance(m, _CONVOLUTIONS)
    ]
    quantizer: Any = codec.quantizer
    books = (quantizer.semantic_quantizer, quantizer.quantizer)
    codes = [
        torch.randint(0, book.codebook_size, (1, book.n_codebooks, _FRAMES), generator=generator)
        for book in books
    ]
    codec.decode(torch.cat(codes, dim=1), torch.tensor([_FRAMES]))
    codec.encode(_sounds(_FRAMES * int(codec.frame_length), codec.sample_rate, generator))
    for hook in hooks:
        hook.remove()


def _magnitude(convolution: Any) -> Tensor:
    """The tensor that scales its output before the bias; upstream has three kinds of weight."""
    if hasattr(convolution, "parametrizations"):
        return convolution.parametrizations.weight.original0
    return convolution.weight_g if hasattr(convolution, "weight_g") else convolution.weight


def _sounds(samples: int, sample_rate: int, generator: torch.Generator) -> Tensor:
    """A gliding hum and hiss, float32 (1, 1, samples), rms about 0.15."""
    seconds = torch.arange(samples) / sample_rate
    hum = torch.sin(2 * math.pi * (120 * seconds + 20 * torch.sin(4 * seconds)))
    hiss = torch.randn(samples, generator=generator) * torch.sin(9 * seconds).clamp(min=0)
    return (0.15 * hum + 0.1 * hiss)[None, None]
