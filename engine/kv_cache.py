"""Keys and values of every active request, in rows whose length follows the longest one."""

from collections.abc import Callable

import torch
from torch import Tensor

GRAIN = 256  # positions; the cache grows by as many, so that it is seldom copied
VIEW_GRAIN = 32  # positions; what attention looks at is padded to as many


class KVCache:
    """(layers, slots, kv heads, positions, head_dim), twice.

    Rows 0 to n - 1 hold the n active requests, without gaps.
    """

    def __init__(self, new: Callable[[int, int], Tensor], slots: int, limit: int) -> None:
        """Args:
        new: Makes zeros for this many rows and positions.
        slots: Rows.
        limit: Positions that a row may ever need.
        """
        self.limit = limit
        self.keys = new(slots, 0)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(slots, dtype=torch.int64)

    @property
    def num_bytes(self) -> int:
        """Memory held now."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def room(self, rows: slice, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Lengths of these rows, and views of keys and values with room for `time` positions more
        behind the longest of them.
        """
        lengths = self.lengths[rows]
        needed = int(lengths.max()) + time
        self.reserve(needed)
        extent = min(_in_grains(needed, VIEW_GRAIN), self.keys.shape[3])
        views = self.keys[:, rows, :, :extent], self.values[:, rows, :, :extent]
        return lengths.to(self.keys.device), *views

    def reserve(self, positions: int) -> None:
        """Make room for rows of that many positions, keeping what is there."""
        if positions <= self.keys.shape[3]:
            return
        extent = min(_in_grains(positions, GRAIN), self.limit)
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:3], extent, old.shape[4])
            new[:, :, :, : old.shape[3]] = old
            setattr(self, name, new)

    def extend(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Append to one row: (layers, kv heads, time, head_dim)."""
        begin = int(self.lengths[row])
        end = begin + keys.shape[2]
        self.reserve(end)
        self.keys[:, row, :, begin:end] = keys
        self.values[:, row, :, begin:end] = values
        self.lengths[row] = end

    def row(self, row: int) -> tuple[Tensor, Tensor]:
        """Views of one row's keys and values, (layers, kv heads, its length, head_dim) each."""
        length = int(self.lengths[row])
        return self.keys[:, row, :, :length], self.values[:, row, :, :length]

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last active one into it."""
        if row != last:
            length = int(self.lengths[last])
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]
            self.lengths[row] = length
        self.lengths[last] = 0

    def shrink(self) -> None:
        """Give the memory of long requests back; call it when no row is in use."""
        extent = min(GRAIN, self.limit)
        if self.keys.shape[3] > extent:
            self.keys = self.keys[:, :, :, :extent].clone()
            self.values = self.values[:, :, :, :extent].clone()


def _in_grains(positions: int, grain: int) -> int:
    return -(-positions // grain) * grain
