#!/usr/bin/env bash
# What `make setup` runs: a virtual environment with exactly what requirements/ pins.
# Does nothing when that has been done before. The package index is the one pip is configured with.
#
#   tools/setup.sh [VENV]      (PYTHON=python3.12 chooses the interpreter)
#
# The server's stubs exist for Python 3.11 and 3.12. Where the distribution has neither, uv fetches
# one: the uv that is here, or one in a virtual environment of its own beside VENV. uv obeys its own
# variables, such as UV_PYTHON_INSTALL_MIRROR and UV_PYTHON_INSTALL_DIR.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
venv=${1:-.venv}
uv_pinned=uv==0.13.9
unreachable="Its own words are above. Without a way to the index, name a proxy: https_proxy=URL, or an\
 index that can be reached: PIP_INDEX_URL=URL."

say() { echo "setup: $*" >&2; }
die() {
  say "$@"
  exit 1
}

# What the system's package manager has to install, g++ included where it is missing.
install() {
  local command
  if command -v "${CXX:-g++}" >/dev/null; then
    "$any_python" ensemble/contract/distribution.py "$@"
  else
    command=$("$any_python" ensemble/contract/distribution.py "$@" g++)
    echo "$command   (g++ may be left out: it makes speech on a CPU five times faster)"
  fi
}

# Prints the path of a Python if the server supports it; inside a virtual environment, of the one
# that it was made of.
supported() {
  "$1" -c 'import sys
if sys.version_info[:2] not in ((3, 11), (3, 12)): sys.exit(1)
print(getattr(sys, "_base_executable", "") or sys.executable)' 2>/dev/null
}

# Prints the interpreter to use.
choose() {
  local candidate python lacking
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: there is no such program"
    python=$(supported "$PYTHON") ||
      die "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1 | tail -n 1), expected Python 3.11 or 3.12"
    lacking=$("$python" -m launch.interpreter)
    [ -z "$lacking" ] || command -v apt-get >/dev/null ||
      die "PYTHON=$PYTHON lacks what Debian's packages $lacking bring"
    [ -z "$lacking" ] || die "PYTHON=$PYTHON cannot serve yet; $(install $lacking)"
    echo "$python"
    return
  fi
  for candidate in "$venv/bin/python" python3.11 python3.12 python3; do
    python=$(supported "$candidate") || continue
    lacking=$("$python" -m launch.interpreter)
    if [ -z "$lacking" ]; then
      echo "$python"
      return
    fi
    # Debian's and Ubuntu's own can be completed. Others are passed over, as there is uv.
    [ "${python%/*}" != /usr/bin ] || command -v uv >/dev/null || ! command -v apt-get >/dev/null ||
      die "$python cannot serve yet; $(install $lacking)"
    say "passing over $python, which lacks $lacking"
  done
  through_uv
}

# Prints an interpreter that uv has fetched, now or earlier.
through_uv() {
  local uv version python
  # A firewall that reads along has a certificate of its own, which pip may have been told of.
  [ -n "${SSL_CERT_FILE:-}" ] || [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=$PIP_CERT
  uv=$(command -v uv) || uv=$(bootstrapped_uv)
  export UV_PYTHON_PREFERENCE=only-managed UV_PYTHON_INSTALL_BIN=0
  for version in 3.11 3.12; do
    python=$(UV_PYTHON_DOWNLOADS=never "$uv" python find --no-project "$version" 2>/dev/null) || continue
    [ -n "$("$python" -m launch.interpreter)" ] || { echo "$python"; return; }
  done
  say "no Python 3.11 or 3.12 here, so uv fetches 3.11 (30 MB)"
  "$uv" python install 3.11 >&2 ||
    die "uv could not fetch Python 3.11. If a firewall is in the way, name a mirror of" \
      "python-build-standalone: UV_PYTHON_INSTALL_MIRROR=URL. Or name a Python: PYTHON=/path/to/python3.11"
  "$uv" python find --no-project 3.11
}

bootstrapped_uv() {
  local folder=$venv-uv
  if ! "$folder/bin/uv" --version >/dev/null 2>&1; then
    "$any_python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
      die "no Python 3.11 or 3.12, and $any_python cannot make a virtual environment to fetch one;" \
        "$(install python3-venv)"
    say "installing uv into $folder"
    "$any_python" -m venv --clear "$folder"
    "$folder/bin/python" -m pip --disable-pip-version-check --quiet --quiet install "$uv_pinned" >&2 ||
      die "pip could not install $uv_pinned. $unreachable Or name a Python: PYTHON=/path/to/python3.11"
  fi
  echo "$folder/bin/uv"
}

# Where there is no Python at all, nobody can be asked but this file.
bare_machine() {
  local distribution packages=python3-venv
  distribution=$(. "${OS_RELEASE:-/etc/os-release}" 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}") || true
  case "$distribution" in
    "debian 12") packages="python3-venv libpython3.11" ;;
    "ubuntu 24.04") packages="python3-venv python3.12-dev" ;;
  esac
  command -v apt-get >/dev/null || die "no Python here. Install Python 3 with its module venv, and g++"
  die "no Python here; as root: apt-get install -y $packages g++" \
    "(g++ may be left out: it makes speech on a CPU five times faster)"
}

stamp() {
  { "$1" --version; cat requirements/*.txt pyproject.toml tools/setup.sh; } | sha256sum
}

# Whether that was done before, with an interpreter that still works and nobody wants to change.
done_before() {
  [ -z "${PYTHON:-}" ] && supported "$venv/bin/python" >/dev/null &&
    [ "$(cat "$venv/setup.stamp" 2>/dev/null)" = "$(stamp "$venv/bin/python")" ]
}

! done_before || exit 0

# Two that install into one environment would spoil it. The lock ends with this process.
exec 9<tools/setup.sh
if command -v flock >/dev/null && ! flock --nonblock 9; then
  say "another make setup is at work in $PWD; waiting for it"
  flock 9
  ! done_before || exit 0
fi

[ "$(uname -m)" = x86_64 ] || die "nvidia-pytriton has a server for x86_64 only, this is $(uname -m)"
any_python=$(command -v python3 || command -v python3.11 || command -v python3.12 ||
  command -v "${PYTHON:-}") || bare_machine
python=$(choose)
wanted=$(stamp "$python")
[ "$(cat "$venv/setup.stamp" 2>/dev/null)" != "$wanted" ] || exit 0

rm -f "$venv/setup.stamp"
# A venv of the same Python is brought up to date, any other made anew.
works="import pip, platform; print('Python', platform.python_version())"
[ "$("$venv/bin/python" -c "$works" 2>/dev/null)" = "$("$python" --version)" ] ||
  "$python" -m venv --clear "$venv"
# A fetched Python would build with the compiler that it was built with.
pip() {
  CC=${CC:-gcc} "$venv/bin/python" -m pip --disable-pip-version-check --quiet --quiet "$@" >&2 ||
    die "pip could not install the packages that requirements/ pins. $unreachable"
}

echo "setup: installing into $venv with $("$python" --version), some minutes"
# torch alone brings what it needs: on a machine with CUDA libraries in the index, those it pins.
# Python compiles what is imported when it is: most of these files never are.
pip install --no-compile --constraint requirements/serve.txt "$(grep '^torch==' requirements/serve.txt)" setuptools
# The lists are complete, so nothing is resolved: fish-speech alone would ask for 60 packages more.
pip install --no-compile --no-deps --no-build-isolation $(printf -- '--requirement %s ' requirements/*.txt)
pip install --no-deps --no-build-isolation --editable .
"$venv/bin/python" -c "from benchmarks.load import perf_analyzer; perf_analyzer.install()" ||
  echo "setup: perf_analyzer lacks libraries; speech does not need it" >&2
echo "$wanted" > "$venv/setup.stamp"
echo "setup: done"
