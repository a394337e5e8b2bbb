"""How the codec streams: what every layer needs of the past, derived once.

**Theorem: chunk by chunk gives the numbers of the whole.** Every layer is causal and looks back a
bounded number of inputs. So its outputs from some time on are a function of its inputs from that
time on and of the few before them, its *context*. Where these come from is all that differs:

1. *Carried* (`StreamState`; the encoder). Each layer keeps its last inputs, or keys and values, and
   has them in front of the next chunk. It then sees for each new output exactly what it would see
   in the whole; in front of the first chunk it sees zeros, which are upstream's padding. By
   induction over the layers the last one's output is that of the whole. Nothing is computed twice,
   and the state has one size whatever the chunks are.
2. *Given again* (`layer_windows`; the decoder). Nothing is kept, and a window brings its history
   along. From the last layer to the first: if `after` outputs before the first new one can be
   heard, then `context(after)` inputs before the first new one can. At the first layer this counts
   frames. A transformer of L layers that each see W positions adds L (W - 1). The sum is
   `history_frames`: older frames change nothing, and one fewer is audible.
3. *Resumed* (`engine.codec.session`). The keys and values of the history and the transformer's last
   outputs, if they were kept, are what case 2 would compute, and take its place.

So any way to cut a stream gives the same audio and codes. In torch that is up to rounding, since
sums of other shapes may be taken in another order. On kernels it is to the last bit, since each of
their numbers is one sum in one fixed order.

Names, the same in encoder, decoder, kernels and sessions:
    new: Frames, or a layer's inputs, that are computed now.
    history: Frames before the new ones. `history_frames`: how many of them can be heard.
    context: Inputs of a layer before its first new one that can be heard.
    context_frames: The context of the decoder's first convolution.
    rate: A layer's inputs per frame.
    state: What is carried from chunk to chunk. `state_size`: numbers in it, for one row.
    cache: Keys and values of positions before the new ones.
    audio_begin: The first of a layer's inputs that belongs to the audio; zeros stand before it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class StreamState:
    """The last inputs of every causal layer, packed into one row of numbers for each audio.

    Layers take theirs in the order in which they run.

    Attributes:
        start: int64 (), positions before the chunk, at the rate of the layer whose turn it is.
    """

    def __init__(self, state: Tensor, start: Tensor) -> None:
        """Begin a chunk.

        Args:
            state: float32 (batch, state_size), as `packed` gave it, or zeros.
            start: Samples before the chunk.
        """
        self.start = start
        self._state, self._taken = state, 0
        self._kept: list[Tensor] = []

    def prepended(self, x: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
        """Put a layer's last inputs in front of x, and keep the last of both.

        Args:
            x: (batch, ...).
            shape: Of what is kept, without the batch axis.
            dim: The time axis, of which the last `shape[dim - 1]` positions are kept.
        """
        end = self._taken + math.prod(shape)
        before = self._state[:, self._taken : end].reshape(-1, *shape)
        self._taken = end
        whole = torch.cat([before, x], dim)
        last = (slice(None),) * dim + (slice(-shape[dim - 1], None),)
        self._kept.append(whole[last].flatten(1))
        return whole

    def packed(self) -> Tensor:
        """Return the state for the next chunk."""
        return torch.cat(self._kept, 1)


@dataclass(frozen=True)
class LayerWindow:
    """One of the decoder's convolutional layers, and which inputs it needs for the new frames.

    Attributes:
        layer: Of `engine.codec.layers`.
        rate: Its inputs per frame.
        context: Its inputs before the first new one that can be heard in the new frames.
        after: Its outputs before the first new one that can be heard: the next layer's context.
    """

    layer: Any
    rate: int
    context: int
    after: int


def layer_windows(layers: Iterable[Any]) -> list[LayerWindow]:
    """Derive what each of the layers, in the order in which they run, needs (case 2 above)."""
    return list(_backwards(list(layers)))[::-1]


def _backwards(layers: list[Any]) -> Iterator[LayerWindow]:
    rate, after = math.prod(getattr(layer, "stride", 1) for layer in layers), 0
    for layer in reversed(layers):
        rate //= getattr(layer, "stride", 1)
        context = layer.context(after)
        yield LayerWindow(layer, rate, context, after)
        after = context


def samples_per_frame(codec: Any) -> int:
    """2048 in S1-mini: encoder strides 2 x 4 x 8 x 8 times the quantizer's downsampling 2 x 2."""
    samples = 1
    for stride in (*codec.encoder_rates, *codec.quantizer.downsample_factor):
        samples *= int(stride)
    return samples
