"""What this interpreter lacks to be the server's. It needs no packages.

    python -m launch.interpreter

prints names of Debian's packages, or nothing if this one will do. `tools/setup.sh` runs it with
each Python 3.11 or 3.12 that it finds.
"""

import ctypes
import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARIES = {"libstdc++.so.6": "libstdc++6", "libexpat.so.1": "libexpat1", "libz.so.1": "zlib1g"}


def libpython() -> Path | None:
    """The shared library of this Python, which the server's stubs load; None if it has none.

    The name alone if the system's loader knows where it is. A Python that was moved after it had
    been built, as those of python-build-standalone, has the library in its own prefix.
    """
    folder, name = (sysconfig.get_config_var(v) or "" for v in ("LIBDIR", "INSTSONAME"))
    paths = [Path(parent, name) for parent in (folder, f"{sys.base_prefix}/lib")]
    found = next((path for path in paths if path.is_file()), Path(name))
    # A static Python says libpython3.11.a; ctypes takes "" for the program that runs.
    return found if ".so" in name and _loads(str(found)) else None


def lacking() -> list[str]:
    """Names of Debian's packages that would bring what is not there."""
    missing = [package for library, package in _LIBRARIES.items() if not _loads(library)]
    if libpython() is None:
        # 3.12's libpython has another name on Ubuntu; its headers bring it.
        missing.append(f"libpython{VERSION}" if VERSION == "3.11" else f"python{VERSION}-dev")
    if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
        missing.append(f"python{VERSION}-venv")
    # geventhttpclient 2.0.2, which tritonclient 2.50 asks for, has no wheel from 3.12 on.
    if VERSION != "3.11":
        if not Path(sysconfig.get_path("include"), "Python.h").is_file():
            missing.append(f"python{VERSION}-dev")
        if not shutil.which("gcc"):
            missing.append("gcc")
    return list(dict.fromkeys(missing))


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    print(*lacking())
