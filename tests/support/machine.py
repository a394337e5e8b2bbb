"""A machine with chosen interpreters for `tools/setup.sh`: fakes that note what they are asked."""

import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
RELEASES = {
    "debian 12": 'ID=debian\nVERSION_ID="12"\n',
    "debian 13": 'ID=debian\nVERSION_ID="13"\n',
    "ubuntu 22.04": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n',
    "ubuntu 24.04": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\n',
    "ubuntu 26.04": 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="26.04"\n',
    "mint": 'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_ID="22"\n',
    "fedora": "ID=fedora\nVERSION_ID=44\n",
    "rocky": 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.1"\n',
    "opensuse": 'ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="16.0"\n',
    "arch": "ID=arch\n",
    "nixos": "ID=nixos\n",
}
_TOOLS = (
    "bash",
    "cat",
    "cp",
    "dirname",
    "env",
    "flock",
    "grep",
    "mkdir",
    "rm",
    "sha256sum",
    "sleep",
    "tail",
    "uname",
)
# Answers what the script asks an interpreter, and notes the rest.
_PYTHON = """#!{bash}
case "$*" in
  --version) echo "Python {version}.7" ;;
  "-m launch.interpreter") echo "{lacks}" ;;
  -c*_base_executable*) case {version} in 3.11 | 3.12) echo "{path}" ;; *) exit 1 ;; esac ;;
  -c*ensurepip*) exit {no_venv} ;;
  -c*"import pip"*) echo "Python {version}.7" ;;
  "-m venv"*) folder="${{@: -1}}"; mkdir -p "$folder/bin"; cp "{path}" "$folder/bin/python" ;;
  "-m pip"*" uv=="*) echo "pip $*" >> "{log}"; [ {no_index} = 0 ] &&
    cp "{uv}" "{project}/.venv-uv/bin/uv" ;;
  "-m pip"*) echo "pip $*" >> "{log}"; sleep {slow_s}; exit {no_index} ;;
  ensemble/*) exec {real} "$@" ;;
  *) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""
_UV = """#!{bash}
echo "uv $*${{SSL_CERT_FILE:+ trusts $SSL_CERT_FILE}}" >> "{log}"
case "$*" in
  --version) echo uv ;;
  "python find "*" 3.11") [ -e "{fetched}" ] && echo "{fetched}" ;;
  "python find"*) exit 2 ;;
  "python install 3.11") [ {reachable} = 1 ] && cp "{fetched}.there" "{fetched}" ;;
esac
"""


class Machine:
    """A folder with a copy of the script, and a PATH of its own."""

    def __init__(
        self, folder: Path, release: str = "debian 13", *, reachable: bool = True,
        index: bool = True, slow_s: float = 0,
    ) -> None:  # fmt: skip
        """Args:
        folder: Where it is.
        release: In `RELEASES`.
        reachable: Whether uv finds what it downloads.
        index: Whether pip finds its packages.
        slow_s: Seconds that pip takes.
        """
        folder.mkdir(exist_ok=True)
        self._no_index, self._slow_s = int(not index), slow_s
        self.project, self.bin, self.log = folder / "project", folder / "bin", folder / "log"
        self._release, self._uv, self.fetched = (
            folder / "os-release",
            folder / "uv",
            folder / "3.11",
        )
        self._release.write_text(RELEASES[release])
        self.bin.mkdir()
        for tool in _TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool) or "/")
        for name in ("tools/setup.sh", "pyproject.toml", "requirements",
                     "ensemble/contract/distribution.py"):  # fmt: skip
            (self.project / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
            copy(PROJECT / name, self.project / name)
        self._place("3.11", Path(f"{self.fetched}.there"), self.fetched, "", True)
        text = _UV.format(bash=shutil.which("bash"), log=self.log, fetched=self.fetched,
                          reachable=int(reachable))  # fmt: skip
        self._uv.write_text(text)
        self._uv.chmod(0o755)

    def python(self, name: str, version: str, *, lacks: str = "", venv: bool = True) -> Path:
        """Put an interpreter on the PATH."""
        return self._place(version, self.bin / name, self.bin / name, lacks, venv)

    def tool(self, name: str) -> None:
        """Put a program on the PATH, uv or one that is only looked for."""
        shutil.copy(self._uv if name == "uv" else shutil.which("true") or "", self.bin / name)

    def _place(self, version: str, at: Path, path: Path, lacks: str, venv: bool) -> Path:
        at.write_text(
            _PYTHON.format(
                bash=shutil.which("bash"), version=version, lacks=lacks, path=path,
                no_venv=int(not venv), log=self.log, uv=self._uv, project=self.project,
                real=sys.executable, no_index=self._no_index, slow_s=self._slow_s,
            )
        )  # fmt: skip
        at.chmod(0o755)
        return path

    def setup(self, **environment: str) -> tuple[int, str, list[str]]:
        """Run the script: exit code, what it said, and what pip and uv were asked."""
        self.log.write_text("")
        done = subprocess.run(
            ["bash", self.project / "tools" / "setup.sh"],
            env={"PATH": str(self.bin), "OS_RELEASE": str(self._release)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout, self.log.read_text().splitlines()
