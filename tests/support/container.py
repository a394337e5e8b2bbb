"""Builds the images of `deploy/` with buildah and runs them as compose.yaml says, without Docker.

The base image is made by debootstrap and imported under Debian's name. A container is a chroot in
namespaces of its own: the image's entry point, environment, folder and user, a read-only root, a
tmpfs at /tmp and /dev/shm, and a network in which only containers are. All of it needs root.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from support.launched import children

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / "build" / "containers"
_STORE = (f"--root={CACHE / 'store'}", f"--runroot={CACHE / 'run'}", "--storage-driver=overlay")


def buildah(*arguments: object) -> str:
    """Run buildah on a store of the tests' own; its output."""
    done = subprocess.run(["buildah", *_STORE, *map(str, arguments)], cwd=PROJECT,
                          stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    return done.stdout.strip()


def bare_debian(suite: str) -> Path:
    """A root folder with Debian's smallest system, not to be written to; made once."""
    root = CACHE / suite
    if not root.exists():
        made = root.with_suffix(".new")
        shutil.rmtree(made, ignore_errors=True)
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["debootstrap", "--variant=minbase", suite, made], check=True)
        made.rename(root)
    return root


def base_image(name: str, suite: str) -> None:
    """Import a bare Debian under the name of an image."""
    if subprocess.run(["buildah", *_STORE, "inspect", "--type=image", name],
                      capture_output=True).returncode:  # fmt: skip
        container = buildah("from", "scratch")
        buildah("add", "--quiet", container, bare_debian(suite), "/")
        buildah("commit", "--quiet", "--rm", container, name)


def pip_configuration() -> tuple[dict[str, str], dict[str, str]]:
    """How this machine's pip is configured: variables, and files by the place they get inside."""
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    variables, files = {}, {}
    for line in shown.stdout.splitlines():
        key, value = line.split("=", 1)
        name = f"PIP_{key.rpartition('.')[2].upper().replace('-', '_')}"
        if name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT"):
            variables[name] = value.strip("'\"")
    if "PIP_CERT" in variables:  # not where a package of Debian writes
        files["/opt/ca.crt"] = variables["PIP_CERT"]
        variables["PIP_CERT"] = "/opt/ca.crt"
    words = [w.removeprefix("file://") for value in variables.values() for w in value.split()]
    folders = [Path(word) for word in words if word.startswith("/") and Path(word).is_dir()]
    for folder in folders:  # an index in a folder links to files beside itself
        top = str(folder.parent if folder.name == "simple" else folder)
        files[top] = top
    return variables, files


def build(dockerfile: str, image: str) -> dict[str, Any]:
    """Build an image; its configuration."""
    variables, files = pip_configuration()
    buildah(
        "bud", "--isolation=chroot", "--layers", "--pull-never", "--format=docker",
        *(f"--volume={here}:{inside}:ro" for inside, here in files.items()),
        *(f"--build-arg={name}={value}" for name, value in variables.items()),
        "-f", dockerfile, "-t", image, ".",
    )  # fmt: skip
    return json.loads(buildah("inspect", "--type=image", image))["Docker"]["config"]


@contextlib.contextmanager
def mounted(image: str) -> Iterator[Path]:
    """The root folder of a container made of the image."""
    container = buildah("from", "--pull-never", image)
    try:
        yield Path(buildah("mount", container))
    finally:
        buildah("umount", container)
        buildah("rm", container)


@contextlib.contextmanager
def network() -> Iterator[int]:
    """A network with a loopback device only; the process that holds it."""
    line = "ip link set lo up && echo up && exec sleep 3600"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", line], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout and holder.stdout.readline() == b"up\n"
            yield holder.pid
        finally:
            holder.kill()


_ENTER = """set -e
mount --bind "$ROOT" "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount -t tmpfs tmpfs "$ROOT/dev"
for device in null zero full random urandom; do
  touch "$ROOT/dev/$device"; mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mkdir "$ROOT/dev/shm"
mount -t tmpfs -o size=1g tmpfs "$ROOT/dev/shm"
mount -t tmpfs -o mode=1777,size=1g tmpfs "$ROOT/tmp"
for volume in $VOLUMES; do
  IFS=: read -r from to how <<< "$volume"
  mount --bind "$from" "$ROOT/$to"
  [ "$how" != ro ] || mount -o remount,bind,ro "$ROOT/$to"
done
mount -o remount,bind,ro "$ROOT"
exec setpriv --no-new-privs chroot --userspec="$RUNS_AS" "$ROOT" env -i "$@"
"""


def command(
    root: Path, config: dict[str, Any], arguments: Sequence[str] | None, net: int,
    volumes: Sequence[str] = (), environment: dict[str, str] | None = None,
    entrypoint: Sequence[str] | None = None,
) -> tuple[list[str], dict[str, str]]:  # fmt: skip
    """How to run an image, and with which environment.

    Args:
        root: Its root folder.
        config: Its configuration.
        arguments: In place of CMD; None: CMD.
        net: The process whose network it joins.
        volumes: FROM:TO or FROM:TO:ro.
        environment: Further variables.
        entrypoint: In place of ENTRYPOINT.
    """
    given = [f"{name}={value}" for name, value in (environment or {}).items()]
    start = [
        *(entrypoint or config["Entrypoint"]),
        *(config["Cmd"] if arguments is None else arguments),
    ]
    folder = ["env", f"--chdir={config['WorkingDir']}"]
    enter = ["nsenter", f"--target={net}", "--net", "unshare", "--mount", "--pid", "--fork",
             "--kill-child", "bash", "-c", _ENTER, "enter"]  # fmt: skip
    return [*enter, *config["Env"], *given, *folder, *start], os.environ | {
        "ROOT": str(root), "VOLUMES": " ".join(volumes), "RUNS_AS": config["User"],
    }  # fmt: skip


def run(*arguments: Any, **how: Any) -> str:
    """Run a container to its end; what it said. Arguments are those of `command`."""
    line, environment = command(*arguments, **how)
    done = subprocess.run(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


@contextlib.contextmanager
def running(log: Path, *arguments: Any, **how: Any) -> Iterator[subprocess.Popen]:
    """Run a container while the context lasts; what it says goes to `log`."""
    line, environment = command(*arguments, **how)
    with log.open("w") as file, subprocess.Popen(line, env=environment, stdout=file,
                                                 stderr=file) as process:  # fmt: skip
        try:
            yield process
        finally:
            # Its child is the first process of a namespace, and all of that ends with it. It would
            # outlive its parent: chroot's change of user takes that tie away.
            for child in children(process.pid):
                os.kill(child, signal.SIGKILL)


def until_healthy(log: Path, seconds: float, *arguments: Any, **how: Any) -> float:
    """Run the image's HEALTHCHECK until it succeeds; the seconds that took."""
    begin = time.monotonic()
    test = arguments[1]["Healthcheck"]["Test"][1:]
    line, environment = command(arguments[0], arguments[1], test[1:], arguments[2],
                                entrypoint=test[:1], **how)  # fmt: skip
    while subprocess.run(line, env=environment, capture_output=True).returncode:
        assert time.monotonic() - begin < seconds, log.read_text()[-4000:]
        time.sleep(1)
    return time.monotonic() - begin
