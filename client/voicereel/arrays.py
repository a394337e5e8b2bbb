"""Reads .npz files that may be anything: nothing is unpickled, and memory is bounded."""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

_MEMBERS = 16  # arrays in a file, at most
_MAX_BYTES = 16 * 2**20  # of an array
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others take memory as the file says

# What reading such a file may raise; MemoryError: of Python's parser, for an array's header.
NO_ARRAYS = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, RuntimeError, SyntaxError,
    MemoryError, OverflowError, AttributeError, zipfile.BadZipFile, zlib.error, struct.error,
    tokenize.TokenError,
)  # fmt: skip


def arrays_in(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a .npz file, by name.

    Raises:
        Exception: One of `NO_ARRAYS`, if it is none, or an array is too large or holds objects.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) > _MEMBERS:
            raise ValueError(f"{len(members)} arrays, expected at most {_MEMBERS}")
        return {each.filename.removesuffix(".npy"): _array(archive, each) for each in members}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    name = ascii(member.filename[:40])
    if member.file_size > _MAX_BYTES:
        raise ValueError(
            f"{name} unpacks to {member.file_size / 1e6:.1f} MB, expected at most "
            f"{_MAX_BYTES / 1e6:.1f}"
        )
    if member.compress_type not in _PACKINGS:
        raise ValueError(f"{name} is packed in a way that NumPy does not use")
    with archive.open(member) as packed:
        raw = io.BytesIO(packed.read(_MAX_BYTES + 1))
    shape, is_fortran, dtype = _header(raw)
    values = raw.read()
    if dtype.hasobject:
        raise ValueError(f"{name} holds Python objects, which are never unpickled")
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected != len(values):
        raise ValueError(f"{name} is {dtype} {shape}, but has {len(values)} bytes")
    flat = np.frombuffer(values, dtype) if dtype.itemsize else np.zeros(math.prod(shape), dtype)
    return flat.reshape(shape, order="F" if is_fortran else "C").copy()


def _header(raw: io.BytesIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(raw)
    if version == (1, 0):
        return npy.read_array_header_1_0(raw)
    if version == (2, 0):
        return npy.read_array_header_2_0(raw)
    raise ValueError(f"an array of version {version}, expected 1.0 or 2.0")
