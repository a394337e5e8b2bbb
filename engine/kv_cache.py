"""Keys and values of every active request, in rows whose length follows the longest one."""

import torch
from torch import Tensor

GRAIN = 256  # positions; the cache grows by as many, so that few shapes occur


class KVCache:
    """(layers, slots, kv heads, positions, head_dim), twice.

    Rows 0 to n - 1 hold the n active requests, without gaps.
    """

    def __init__(
        self, layers: int, slots: int, kv_heads: int, head_dim: int, limit: int, like: Tensor
    ) -> None:
        """Args:
        layers, slots, kv_heads, head_dim: Extents.
        limit: Positions that a row may ever need.
        like: Gives dtype and device.
        """
        self.limit = limit
        self.keys = like.new_zeros(layers, slots, kv_heads, min(GRAIN, limit), head_dim)
        self.values = torch.zeros_like(self.keys)
        self.lengths = torch.zeros(slots, dtype=torch.int64)

    @property
    def num_bytes(self) -> int:
        """Memory held now."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def past(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Lengths, and views of keys and values up to the longest of these rows, in grains."""
        lengths = self.lengths[rows]
        extent = min(_in_grains(int(lengths.max())), self.keys.shape[3])
        return lengths, self.keys[:, rows, :, :extent], self.values[:, rows, :, :extent]

    def reserve(self, positions: int) -> None:
        """Make room for rows of that many positions, keeping what is there."""
        if positions <= self.keys.shape[3]:
            return
        extent = min(_in_grains(positions), self.limit)
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

    def append(self, count: int, keys: Tensor, values: Tensor) -> None:
        """Append one position to rows 0 to count - 1: (layers, count, kv heads, 1, head_dim)."""
        positions = self.lengths[:count]
        self.reserve(int(positions.max()) + 1)
        rows = torch.arange(count)
        index = (rows.to(self.keys.device), positions.to(self.keys.device))
        self.keys[:, index[0], :, index[1]] = keys[..., 0, :].transpose(0, 1)
        self.values[:, index[0], :, index[1]] = values[..., 0, :].transpose(0, 1)
        self.lengths[:count] += 1

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


def _in_grains(positions: int) -> int:
    return -(-positions // GRAIN) * GRAIN
