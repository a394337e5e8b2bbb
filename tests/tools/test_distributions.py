"""`make demo` in bare Debian: two commands, and nothing installed but what they name.

`make test-distributions` runs it, as root, with debootstrap and patchelf: 15 minutes each, 4 GB.
"""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import container, fetched_python

pytestmark = pytest.mark.root
PROJECT = Path(__file__).resolve().parents[2]
NAMED = re.compile(r"as root: (apt-get install -y [\w.+ -]+?) *(?:\(|$)", re.MULTILINE)
MOST_S = 3600  # one that never ends would hold its mounts
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ENTER = """set -e
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount --bind /dev/shm "$ROOT/dev/shm"
for volume in $VOLUMES; do
  from=${volume%%:*} to=$ROOT${volume#*:}
  if [ -d "$from" ]; then mkdir -p "$to"; else mkdir -p "${to%/*}"; touch "$to"; fi
  mount --bind "$from" "$to"
done
exec chroot "$ROOT" env -i "$@"
"""


class Bare:
    """A bare Debian with a checkout of the project in /src."""

    def __init__(self, suite: str, root: Path) -> None:
        subprocess.run(["cp", "-a", container.bare_debian(suite), root], check=True)
        for name in ("resolv.conf", "hosts"):
            shutil.copy(f"/etc/{name}", root / "etc" / name)
        files = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT)
        (root / "src").mkdir()
        copy = ["xargs", "-0", "cp", "--parents", "-t", root / "src"]
        subprocess.run(copy, input=files, cwd=PROJECT, check=True)
        self.variables, files = container.pip_configuration()
        if cert := self.variables.get("PIP_CERT"):
            self.variables["SSL_CERT_FILE"] = cert
        self.variables |= {"PATH": PATH, "HOME": "/root"}
        self.root = root
        self.volumes = [f"{here}:{inside}" for inside, here in files.items()]

    def run(self, command: str) -> tuple[int, str]:
        """Exit code and output of a command in /src."""
        begin = time.monotonic()
        given = [f"{name}={value}" for name, value in self.variables.items()]
        enter = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "bash", "-c", ENTER]
        done = subprocess.run(
            [*enter, "enter", *given, "bash", "-c", f"cd /src && {command}"],
            env={"ROOT": str(self.root), "VOLUMES": " ".join(self.volumes), "PATH": PATH},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=MOST_S,
        )
        tail = "\n".join(done.stdout.splitlines()[-12:])
        print(f"$ {command}   ({time.monotonic() - begin:.0f} s)\n{tail}", flush=True)
        return done.returncode, done.stdout


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_demo_speaks_with_what_the_message_names(suite: str) -> None:
    root = container.CACHE / f"{suite}-demo"
    shutil.rmtree(root, ignore_errors=True)
    bare = Bare(suite, root)
    if suite != "bookworm":
        if sys.version_info[:2] != (3, 11) or not shutil.which("patchelf"):
            pytest.skip("packing a Python for uv needs Python 3.11 and patchelf")
        (root / "fetched").mkdir()
        bare.variables |= fetched_python.pack(root / "fetched", "/fetched")
    apt = "export DEBIAN_FRONTEND=noninteractive; apt-get update -qq >/dev/null &&"
    assert bare.run(f"{apt} apt-get install -y -qq make >/dev/null 2>&1")[0] == 0
    code, said = bare.run("make demo")
    assert code == 2 and "no Python here" in said
    (named,) = NAMED.findall(said)
    assert bare.run(f"{apt} {named} -qq >/dev/null 2>&1")[0] == 0
    code, said = bare.run("make demo")
    assert code == 0
    assert "no C++ compiler" not in said
    spoken = json.loads(said.splitlines()[-1])
    assert spoken["segments"] == 6 and spoken["audio_s"] > 10
    assert (root / "src/out/demo.wav").stat().st_size > 1_000_000
