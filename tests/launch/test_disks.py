"""A disk that takes nothing more: the start says so, and leaves nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from launch.supervisor import in_words
from support.launched import PROJECT

PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("ulimit -f 512", "File too large"),
        ("chmod 700 .", "No space left on device"),
    ],
    ids=["a limit of the file size", "a full disk"],
)
def test_a_start_on_a_full_disk(toy: Path, tmp_path: Path, before: str, said: str) -> None:
    command = [sys.executable, "-m", "launch.serve", "--repository", str(toy), *PORTS]
    script = f'{before}; TMPDIR={tmp_path}/small exec "$@"'
    inside = ["bash", "-c", script, "bash", *command]
    small = tmp_path / "small"
    small.mkdir()
    if "full" in said or "space" in said:
        probe = subprocess.run(["unshare", "-m", "true"], capture_output=True, text=True)
        if probe.returncode:
            pytest.skip(f"no mount namespace: {probe.stderr.strip()}")
        mount = f'mount -t tmpfs -o size=1m none {small} && exec "$@"'
        inside = ["unshare", "-m", "bash", "-c", mount, "bash", *inside]
    done = subprocess.run(inside, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    errors = [line for line in done.stderr.splitlines() if "warning" not in line]
    assert len(errors) == 1 and errors[0].startswith("serve: "), done.stderr
    assert f"{said}. The server keeps a few MB in a folder for temporary files" in errors[0]
    assert errors[0].endswith("with TMPDIR=DIR")
    assert [path.name for path in (small / f"voicereel-{os.getuid()}").glob("*")] == []


def test_words_of_errors() -> None:
    full = OSError(28, "No space left on device", "/tmp/x")
    assert in_words(full).startswith("/tmp/x: No space left on device. The server keeps")
    assert in_words(OSError(2, "No usable folder")).startswith("No usable folder. ")
    assert in_words(ValueError("as it is")) == "as it is"
