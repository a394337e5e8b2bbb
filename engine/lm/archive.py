"""Reads the tensors of a TorchScript archive without reading them: they are mapped into memory.

`torch.jit.load` copies them, which doubles the memory of a large model while it is laid out. An
archive is a zip file whose entries are stored as they are: `data.pkl` describes the modules and
their tensors, `data/N` are the numbers. Nothing in it is run.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LOCAL_HEADER = 30  # bytes of a zip entry's own header before its name
_DTYPES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}  # fmt: skip


def read_archive(path: Path, extra: str) -> tuple[dict[str, Tensor], str]:
    """Read parameters and buffers by their full names, and a text that was saved beside them.

    Args:
        path: What `torch.jit.ScriptModule.save` has written.
        extra: Name of the text; "" comes back if there is none.

    Raises:
        ValueError: If it is no such archive.
    """
    try:
        with zipfile.ZipFile(path) as file:
            root = next(n for n in file.namelist() if n.endswith("/data.pkl")).split("/")[0]
            storages = _Storages(path, file, f"{root}/data/")
            with file.open(f"{root}/data.pkl") as described:
                module = _Unpickler(described, storages).load()
            name = f"{root}/extra/{extra}"
            text = file.read(name).decode("utf-8") if name in file.namelist() else ""
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no TorchScript archive, or cut short ({error!r})") from error
    return dict(_named(module, "")), text


class _Module:
    """Stands for any module of the archive."""


def _named(module: _Module, prefix: str) -> Any:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named(value, f"{prefix}{name}.")


class _Storages:
    """The archive's numbers, mapped."""

    def __init__(self, path: Path, file: zipfile.ZipFile, folder: str) -> None:
        # Copy on write: nothing writes, but torch warns of memory that cannot be written to.
        self._bytes = np.memmap(path, np.uint8, "c")
        self._places = {}
        for entry in file.infolist():
            if entry.filename.startswith(folder) and entry.compress_type == zipfile.ZIP_STORED:
                self._places[entry.filename.removeprefix(folder)] = entry

    def __getitem__(self, key: str) -> np.ndarray:
        entry = self._places[key]
        header = self._bytes[entry.header_offset : entry.header_offset + _LOCAL_HEADER]
        name, extra = struct.unpack("<HH", header[26:30].tobytes())
        begin = entry.header_offset + _LOCAL_HEADER + name + extra
        return self._bytes[begin : begin + entry.file_size]


class _Unpickler(pickle.Unpickler):
    """Takes modules and tensors, and nothing that would be called."""

    def __init__(self, file: Any, storages: _Storages) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> tuple[np.ndarray, torch.dtype]:
        _, dtype, key, *_ = pid
        return self._storages[key], dtype


def _tensor(
    storage: tuple[np.ndarray, torch.dtype],
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    *_: Any,
) -> Tensor:
    numbers, dtype = storage
    if not len(numbers):
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(numbers).view(dtype).as_strided(shape, stride, offset)
