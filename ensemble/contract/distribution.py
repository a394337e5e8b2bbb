"""The command that installs packages on the distribution at hand, for messages that name one.

It needs Python 3.9 and no packages: `tools/setup.sh` asks before anything is installed.

    python3 ensemble/contract/distribution.py g++ python3-venv
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

OS_RELEASE = Path(os.environ.get("OS_RELEASE", "/etc/os-release"))
# Distributions that have a Python which the server supports. Ubuntu 22.04's 3.11 is a release
# candidate, and not its `python3`; it counts where it is installed.
PYTHONS = {"debian 12": "3.11", "ubuntu 22.04": "3.11", "ubuntu 24.04": "3.12"}
# By ID or ID_LIKE: the command, and the names of those packages that Debian names otherwise.
_MANAGERS = {
    "debian": ("apt-get install -y", {}),
    "ubuntu": ("apt-get install -y", {}),
    "fedora": ("dnf install -y", {"g++": "gcc-c++", "python3-venv": "python3"}),
    "rhel": ("dnf install -y", {"g++": "gcc-c++", "python3-venv": "python3"}),
    "suse": ("zypper install -y", {"g++": "gcc-c++", "python3-venv": "python3"}),
    "arch": ("pacman -S --noconfirm", {"g++": "gcc", "python3-venv": "python"}),
}
_MEANINGS = {"g++": "a C++ compiler (g++)", "python3-venv": "Python 3 with its module venv"}


def install(*packages: str, release: Path | None = None) -> str:
    """What the system's administrator has to do, such as "as root: apt-get install -y g++".

    Args:
        packages: Names as Debian has them; elsewhere only those of `_MEANINGS` are known.
        release: The file that says which distribution this is; None: this machine's.
    """
    says = _read(release or OS_RELEASE)
    for name in [says.get("ID", ""), *says.get("ID_LIKE", "").split()]:
        # openSUSE's are "opensuse-leap" and the like, and ID_LIKE says "suse".
        if found := _MANAGERS.get(name):
            command, names = found
            return f"as root: {command} {' '.join(names.get(p, p) for p in packages)}"
    wanted = ", ".join(_MEANINGS.get(package, package) for package in packages)
    return f"with this system's package manager install {wanted}"


def has_python(version: str, release: Path | None = None) -> bool:
    """Whether this distribution has packages of Python `version`, such as "3.11"."""
    says = _read(release or OS_RELEASE)
    return PYTHONS.get(f"{says.get('ID')} {says.get('VERSION_ID')}") == version


def _read(release: Path) -> dict[str, str]:
    try:
        lines = release.read_text("utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=")[::2] for line in lines if "=" in line)
    return {key.strip(): value.strip().strip("\"'") for key, value in pairs}


if __name__ == "__main__":
    print(install(*sys.argv[1:]))
