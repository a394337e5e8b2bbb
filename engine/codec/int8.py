"""The decoder in 8-bit integers, for CPUs with AVX2 or better: what is rounded, and by what.

Two kinds of layers are rounded, which are nearly all of the cost. All else stays float32, and so do
queries, keys and values, which lose most.

- Every convolution right behind a Snake but the last. The steps of its inputs are constants, made
  at export from the *ranges* that are found here by decoding examples.
- The linear layers of the transformer and of `ConvNeXt`. Each row has a step of its own, found when
  it is computed.

Sums of integers are exact, so audio depends neither on where a window begins nor on what else is in
the batch. `engine.codec.on_kernels` does the rounding, by `engine.kernels.rounding`.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

from engine.codec.decoder import DecoderGraph
from engine.codec.layers import CausalConv, CausalTransposedConv, Residual, Snake
from engine.codec.quantizer import quantizers

VOICES = Path(__file__).resolve().parents[2] / "assets" / "voices"
_ROOM = 1.05  # ranges are this much wider than the examples', for speech that is louder
_RANDOM_FRAMES = 64  # of random codes: 3 s

# Of a convolution's inputs, by layer: float32 (channels,) each, the least (0 or below) and the
# largest (0 or above).
Ranges = Mapping[nn.Module, tuple[Tensor, Tensor]]


@torch.no_grad()
def example_codes(codec: Any) -> list[Tensor]:
    """Make the codes that ranges are found with: int64 (1, codebooks, frames) each.

    They are what the genuine codec makes of the recordings in assets/voices, and random codes,
    which go further than any speech: a voice louder or higher than those two must not be cut off.
    """
    # A recording at another rate than the codec's sounds like another voice, which serves as well.
    recordings = (
        soundfile.read(path, dtype="float32")[0] for path in sorted(VOICES.glob("*.flac"))
    )
    speech = [codec.encode(torch.from_numpy(r)[None, None])[0] for r in recordings]
    generator = torch.Generator().manual_seed(0)
    sizes = [int(q.codebook_size) for q in quantizers(codec)]
    rows = [torch.randint(0, n, (1, _RANDOM_FRAMES), generator=generator) for n in sizes]
    return [*speech, torch.stack(rows, dim=1)]


@torch.no_grad()
def input_ranges(graph: DecoderGraph, examples: Iterable[Tensor]) -> Ranges:
    """Find the ranges of the inputs of all convolutions that are rounded.

    Args:
        graph: In float32.
        examples: Codes to be decoded, int64 (1, codebooks, frames).
    """
    found: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def observe(layer: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = (f(inputs[0], dim=(0, 2)) for f in (torch.amin, torch.amax))
        known = found.get(layer, (torch.zeros_like(low), torch.zeros_like(high)))
        found[layer] = torch.minimum(known[0], low), torch.maximum(known[1], high)

    hooks = [layer.register_forward_pre_hook(observe) for layer in _behind_snakes(graph)]
    for codes in examples:
        graph(codes, torch.arange(codes.shape[2])[None])
    for hook in hooks:
        hook.remove()
    return {layer: (_ROOM * low, _ROOM * high) for layer, (low, high) in found.items()}


def _behind_snakes(graph: DecoderGraph) -> Iterator[CausalConv | CausalTransposedConv]:
    """Yield the convolutions right behind a Snake, but for the last one, of one output channel."""
    layers: list[Any] = []
    for layer in graph.convolutions.layers():
        layers += layer.block.layers() if isinstance(layer, Residual) else [layer]
    for before, layer in pairwise(layers):
        if isinstance(before, Snake) and layer.conv.out_channels > 1:
            yield layer
