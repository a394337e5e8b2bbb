#!/usr/bin/env bash
# What `make setup` runs: a virtual environment with exactly what requirements/ pins.
# Does nothing when that has been done before. The package index is the one pip is configured with.
#
#   tools/setup.sh [VENV]      (PYTHON=python3.12 chooses the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}

die() {
  echo "setup: $*" >&2
  exit 1
}

# The server's stubs load this interpreter's library; onnxruntime and numpy < 2 leave 3.11 and 3.12.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  die "no Python 3.11 or 3.12. Debian 12, Ubuntu 22.04: apt-get install python3.11-venv libpython3.11;" \
    "Ubuntu 24.04: apt-get install python3.12-venv python3.12-dev gcc. Or name one: PYTHON=/path/to/python3.11"
}

# Names everything that only the system's package manager can bring, in one command.
check_system() {
  local missing
  missing=$("$1" - <<'PY'
import ctypes, importlib.util, shutil, sys, sysconfig
from pathlib import Path

version = f"{sys.version_info.major}.{sys.version_info.minor}"
folder, libpython = (sysconfig.get_config_var(v) or "" for v in ("LIBDIR", "INSTSONAME"))
libraries = {
    str(Path(folder, libpython)) if Path(folder, libpython).is_file() else libpython: f"libpython{version}",
    "libstdc++.so.6": "libstdc++6",
    "libexpat.so.1": "libexpat1",
    "libz.so.1": "zlib1g",
}
missing = []
for library, package in libraries.items():
    try:
        ctypes.CDLL(library)
    except OSError:
        missing.append(package)
if not all(map(importlib.util.find_spec, ("venv", "ensurepip"))):
    missing.append(f"python{version}-venv")
# geventhttpclient 2.0.2, which tritonclient 2.50 asks for, has no wheel from 3.12 on.
if version != "3.11":
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append(f"python{version}-dev")
    if not shutil.which("gcc"):
        missing.append("gcc")
print(*missing)
PY
  )
  [ -z "$missing" ] || die "this machine lacks what pip cannot bring. As root: apt-get install -y $missing"
}

stamp() {
  { "$1" --version; cat requirements/*.txt pyproject.toml tools/setup.sh; } | sha256sum
}

python=$(find_python)
wanted=$(stamp "$python")
[ "$(cat "$venv/setup.stamp" 2>/dev/null)" != "$wanted" ] || exit 0

check_system "$python"
[ "$(uname -m)" = x86_64 ] || die "nvidia-pytriton has a server for x86_64 only, this is $(uname -m)"
rm -f "$venv/setup.stamp"
# A venv of the same Python is brought up to date, any other made anew.
works="import pip, platform; print('Python', platform.python_version())"
[ "$("$venv/bin/python" -c "$works" 2>/dev/null)" = "$("$python" --version)" ] ||
  "$python" -m venv --clear "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@"; }

echo "setup: installing into $venv with $("$python" --version), some minutes"
# torch alone brings what it needs: on a machine with CUDA libraries in the index, those it pins.
pip install --constraint requirements/serve.txt "$(grep '^torch==' requirements/serve.txt)" setuptools
# The lists are complete, so nothing is resolved: fish-speech alone would ask for 60 packages more.
pip install --no-deps --no-build-isolation $(printf -- '--requirement %s ' requirements/*.txt)
pip install --no-deps --no-build-isolation --editable .
echo "$wanted" > "$venv/setup.stamp"
echo "setup: done"
