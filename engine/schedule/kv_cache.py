"""Keys and values of the whole batch: rows whose number and length follow what is in use."""

from collections.abc import Callable

import torch
from torch import Tensor

GRAIN = 256  # positions; the cache grows by as many, so that it is seldom copied
VIEW_GRAIN = 32  # positions; what attention looks at is padded to a multiple, so shapes recur


class KVCache:
    """Keys and values, each (layers, rows, kv heads, positions, head_dim).

    Rows in use have no gaps between them; see `engine.schedule.batch.Batch`.
    """

    def __init__(
        self,
        new: Callable[[int, int], Tensor],
        slots: int,
        row_limit: int,
        max_positions: int | None = None,
        fixed: int = 0,
    ) -> None:
        """Args:
        new: Makes zeros for this many rows and positions.
        slots: Rows, at most.
        row_limit: Positions that a row may ever need.
        max_positions: Rows times positions to be held at once; None: `slots` rows of `row_limit`.
        fixed: Positions of every row that are held from the start, and looked at as a whole, so
            that their memory and their shapes stay the same.
        """
        self.row_limit = row_limit
        bound = slots * row_limit if max_positions is None else max_positions
        self.max_positions = max(row_limit, bound)
        self.likely = 0  # rows that will be needed soon
        self._new = new
        self.fixed = min(fixed, row_limit, self.max_positions // slots)
        held = (slots, self.fixed) if self.fixed else (0, 0)
        self.keys, self.values = new(*held), new(*held)
        self.lengths = torch.zeros(slots, dtype=torch.int64)

    @property
    def num_bytes(self) -> int:
        """Memory held now."""
        return 2 * self.keys.numel() * self.keys.element_size()

    def fits(self, needs: list[int]) -> bool:
        """Whether rows that will need so many positions each may be in use together."""
        extent = min(_in_grains(max(needs), GRAIN), self.row_limit)
        return len(needs) == 1 or len(needs) * extent <= self.max_positions

    def room(self, rows: slice, time: int) -> tuple[Tensor, Tensor, Tensor]:
        """Make room for `time` new positions behind the longest of these rows.

        Returns:
            Lengths of the rows, on the CPU, and views of their keys and values.
        """
        lengths = self.lengths[rows]
        needed = int(lengths.max()) + time
        self.reserve(rows.stop, needed)
        extent = self.keys.shape[3]
        if not self.fixed:
            extent = min(_in_grains(needed, VIEW_GRAIN), extent)
        views = self.keys[:, rows, :, :extent], self.values[:, rows, :, :extent]
        return lengths, *views

    def reserve(self, rows: int, positions: int) -> None:
        """Make room for the first `rows` to have that many positions, keeping what they hold."""
        held, extent = self.keys.shape[1], self.keys.shape[3]
        if rows <= held and positions <= extent:
            return
        needed = min(_in_grains(max(positions, int(self.lengths.max())), GRAIN), self.row_limit)
        extent = max(extent, needed)
        # More rows than needed, so that the cache is seldom copied, but not more than allowed.
        more = max(2 * rows, self.likely)
        count = held if rows <= held else min(more, len(self.lengths))
        if count * extent > self.max_positions:
            extent = needed
            count = max(rows, self._in_use(), min(count, self.max_positions // extent))
        self._resize(count, extent)

    def _resize(self, rows: int, extent: int) -> None:
        known = min(rows, self._in_use())
        end = min(extent, int(self.lengths.max()))
        for name in ("keys", "values"):
            old, new = getattr(self, name), self._new(rows, extent)
            new[:, :known, :, :end] = old[:, :known, :, :end]
            setattr(self, name, new)

    def _in_use(self) -> int:
        """Rows up to the last one that holds anything."""
        return int(self.lengths.nonzero().max()) + 1 if self.lengths.any() else 0

    def extend(self, row: int, keys: Tensor, values: Tensor) -> None:
        """Append to one row: (layers, kv heads, time, head_dim)."""
        begin = int(self.lengths[row])
        end = begin + keys.shape[2]
        self.reserve(row + 1, end)
        self.keys[:, row, :, begin:end] = keys
        self.values[:, row, :, begin:end] = values
        self.lengths[row] = end

    def row(self, row: int) -> tuple[Tensor, Tensor]:
        """Views of one row's keys and values, (layers, kv heads, its length, head_dim) each."""
        length = int(self.lengths[row])
        return self.keys[:, row, :, :length], self.values[:, row, :, :length]

    def drop(self, row: int, last: int) -> None:
        """Free a row by moving the last one into it."""
        if row != last and (length := int(self.lengths[last])):
            self.keys[:, row, :, :length] = self.keys[:, last, :, :length]
            self.values[:, row, :, :length] = self.values[:, last, :, :length]
        self.lengths[row] = self.lengths[last]
        self.lengths[last] = 0

    def shrink(self) -> None:
        """Give the memory of long requests back; to be called when no row is in use."""
        extent = self.fixed or min(GRAIN, self.row_limit)
        if self.keys.shape[3] > extent:
            self._resize(len(self.lengths) if self.fixed else self.keys.shape[1], extent)


def _in_grains(positions: int, grain: int) -> int:
    return -(-positions // grain) * grain
