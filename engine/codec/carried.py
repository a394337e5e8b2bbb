"""What a streaming graph carries from one chunk of audio to the next."""

import math

import torch
from torch import Tensor


class Carried:
    """The last inputs of every causal layer, packed into one row of numbers for each audio.

    With them in front of the chunk a layer computes what it would have computed at once; zeros
    stand before the beginning. Layers take theirs in the order in which they run.

    Attributes:
        start: int64 (), positions before the chunk, at the rate of the layer whose turn it is.
    """

    def __init__(self, state: Tensor, start: Tensor) -> None:
        """Args:
        state: float32 (batch, numbers), as `packed` gave it, or zeros.
        start: Samples before the chunk.
        """
        self.start = start
        self._state, self._taken = state, 0
        self._kept: list[Tensor] = []

    def joined(self, x: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
        """Put what is carried in front of x.

        Args:
            x: (batch, ...).
            shape: Of what is carried, without the batch axis.
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
        """For the next chunk."""
        return torch.cat(self._kept, 1)
