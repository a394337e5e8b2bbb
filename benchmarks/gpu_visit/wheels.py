"""Makes a wheel smaller: without what a visit does not use, and by a better compression."""

import re
import zipfile
from pathlib import Path

# Of any wheel: its tests, and types, which nothing reads at run time.
_UNUSED = re.compile(
    r"(^|/)tests?/|\.pyi$|\.pxd$"
    r"|^tritonclient-.*\.data/data/"  # perf_analyzer
    r"|^numpy/core/_simd\.|^numpy/f2py/"
    r"|^pytriton/tritonserver/python_backend_stubs/(?!{python}/)"  # of other Pythons
    r"|^nvidia_pytriton\.libs/libpython"  # for one of those
)
# ICU's tables: 29 MB, of which libxml2 would use some to convert character sets. tritonserver reads
# no XML, so they may be empty; but the loader wants the file, and its symbol.
_TABLES = re.compile(r"/libicudata-[^/]*$")


def repacked(source: Path, target: Path, python: str) -> None:
    """Write a wheel anew.

    Args:
        source: As the package index has it.
        target: Where to.
        python: Version, as 3.12.
    """
    unused = re.compile(_UNUSED.pattern.replace("{python}", re.escape(python)))
    with (
        zipfile.ZipFile(source) as old,
        # Python reads it without a program; programs of 20 to 30 MB become a third smaller by it.
        zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as new,
    ):
        for entry in old.infolist():
            if entry.is_dir() or unused.search(entry.filename):
                continue
            content = old.read(entry)
            if _TABLES.search(f"/{entry.filename}"):
                content = without_tables(content)
            kept = zipfile.ZipInfo(entry.filename)  # of one date: the same pack, the same bytes
            kept.external_attr, kept.compress_type = entry.external_attr, zipfile.ZIP_LZMA
            new.writestr(kept, content)


def without_tables(library: bytes) -> bytes:
    """An ELF library (64 bits, little-endian) with zeros in its section of constants.

    Raises:
        ValueError: If it is none, or has no such section.
    """
    if library[:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected a little-endian ELF library of 64 bits")
    headers, size, count, names = _fields(library, 0x28, 8), 64, *(
        _fields(library, at, 2) for at in (0x3C, 0x3E)
    )  # fmt: skip
    start = [headers + size * i for i in range(count)]
    strings = _fields(library, start[names] + 0x18, 8)
    for header in start:
        name = strings + _fields(library, header, 4)
        if library[name : library.index(b"\0", name)] == b".rodata":
            offset, length = (_fields(library, header + at, 8) for at in (0x18, 0x20))
            return library[:offset] + bytes(length) + library[offset + length :]
    raise ValueError("expected a section .rodata, found none")


def _fields(library: bytes, at: int, size: int) -> int:
    return int.from_bytes(library[at : at + size], "little")
