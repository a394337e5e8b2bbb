"""Reads safetensors files: their tensors are mapped into memory, and nothing in them is run.

A file is the length of its header (8 bytes, little-endian), the header (JSON: name -> dtype, shape
and where its bytes are) and the bytes.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from families.fish_s1.weights import listed, reject_lfs_pointer
from families.registry import CheckpointError

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
_LONGEST_HEADER = 100_000_000  # bytes, as in the format's own library


def read_indexed(folder: Path) -> dict[str, Tensor]:
    """The tensors of all shards that the index names.

    Raises:
        CheckpointError: If a shard is missing or damaged, or holds other tensors than the index
            says.
    """
    reject_lfs_pointer(folder / INDEX)
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(places.values()))
        foreign = [name for name in shards if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{INDEX}: has no weight_map of tensors and their files ({error!r}). Download it again"
        ) from error
    if foreign:
        raise CheckpointError(f"{INDEX}: names {listed(foreign)}, expected files of its own folder")
    if missing := [name for name in shards if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(shards)} shards missing: {listed(missing)}. "
            f"Download all that {INDEX} names"
        )
    found: dict[str, Tensor] = {}
    for shard in shards:
        tensors = read_file(folder / shard)
        named = {name for name, place in places.items() if place == shard}
        if wrong := sorted(named ^ tensors.keys()):
            raise CheckpointError(
                f"{shard}: does not hold the tensors that {INDEX} says: {listed(wrong)}. "
                "Download both again"
            )
        found |= tensors
    return found


def read_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, mapped.

    Raises:
        CheckpointError: If it is damaged, or holds quantised weights.
    """
    reject_lfs_pointer(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(_damaged(path, f"{size} bytes"))
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            entries = {name: _Entry(**entry) for name, entry in header.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(_damaged(path, f"its header cannot be read: {error}")) from error
    if quantised := sorted(n for n, e in entries.items() if e.dtype not in DTYPES):
        kinds = sorted({entries[name].dtype for name in quantised})
        raise CheckpointError(
            f"{path.name}: holds quantised or integer weights ({', '.join(kinds)}: "
            f"{listed(quantised)}), expected {', '.join(DTYPES)}. "
            "Export from the checkpoint before quantisation"
        )
    end = size - 8 - length
    if outside := sorted(n for n, entry in entries.items() if not entry.fits(end)):
        raise CheckpointError(_damaged(path, f"{size} bytes, too few for {listed(outside)}"))
    if not entries:
        return {}
    # Copy on write: nothing writes, but torch warns of memory that cannot be written to.
    mapped = np.memmap(path, np.uint8, "c", offset=8 + length, shape=(end,)) if end else None
    return {name: entry.tensor(mapped) for name, entry in entries.items()}


def _damaged(path: Path, why: str) -> str:
    return f"{path.name}: cut short or not a safetensors file ({why}). Copy or download it again"


class _Entry:
    """Where a tensor is in its file."""

    def __init__(self, dtype: str, shape: list[int], data_offsets: list[int]) -> None:
        self.dtype, self.shape = dtype, [int(extent) for extent in shape]
        self.begin, self.end = (int(offset) for offset in data_offsets)

    def fits(self, size: int) -> bool:
        """Whether its bytes are as many as it needs, and all in a file of so many."""
        needed = math.prod(self.shape) * DTYPES[self.dtype].itemsize
        is_sound = min(self.shape, default=0) >= 0 <= self.begin
        return is_sound and self.end - self.begin == needed and self.end <= size

    def tensor(self, mapped: Any) -> Tensor:
        dtype = DTYPES[self.dtype]
        if self.begin == self.end:
            return torch.empty(self.shape, dtype=dtype)
        part = mapped[self.begin : self.end]
        if part.ctypes.data % dtype.itemsize:  # such a view would not be allowed
            part = part.copy()
        return torch.from_numpy(part).view(dtype).view(self.shape)


class Writer:
    """Writes one file tensor by tensor, whose sizes are known before.

    Source: the format's description, huggingface/safetensors, README.md.
    """

    def __init__(self, path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> None:
        """Write the header.

        Args:
            path: The file to make.
            shapes: Of each tensor, in the order in which they will be added.
            dtype: Of all tensors.
        """
        name = next(name for name, known in DTYPES.items() if known == dtype)
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for tensor, shape in shapes.items():
            begin, end = end, end + math.prod(shape) * dtype.itemsize
            header[tensor] = {"dtype": name, "shape": list(shape), "data_offsets": [begin, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._dtype, self._left = dtype, dict(shapes)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def add(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor."""
        expected = next(iter(self._left))
        if (name, tuple(tensor.shape)) != (expected, self._left.pop(expected)):
            raise ValueError(f"{name} {tuple(tensor.shape)} comes where {expected} should")
        numbers: Any = tensor.to("cpu", self._dtype).contiguous().flatten().view(torch.uint8)
        self._file.write(memoryview(numbers.numpy()))

    def close(self) -> None:
        """End the file, which must be complete."""
        self._file.close()
        if self._left:
            raise ValueError(f"{len(self._left)} tensors were not written: {listed(self._left)}")
