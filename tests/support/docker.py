"""A Docker daemon of the tests' own, with stand-ins for the images that compose.yaml pulls.

Debian is made by debootstrap; Prometheus is Debian's; a server that only says that it is healthy
stands in for Grafana. pip finds what this machine's pip finds. All of it needs root, dockerd and
Docker Compose.
"""

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from support import container

PROMETHEUS = """FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends prometheus wget \\
 && chown nobody:nogroup /var/lib/prometheus && ln -sfn /var/lib/prometheus /prometheus
USER nobody
VOLUME ["/prometheus"]
ENTRYPOINT ["/usr/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
"""
GRAFANA = """FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends python3 wget \\
 && mkdir -p /srv/api /var/lib/grafana && echo '{}' > /srv/api/health
USER nobody
ENTRYPOINT ["python3", "-m", "http.server", "--directory", "/srv", "3000"]
"""


class Docker:
    """What `docker` is asked, of a daemon at `socket`."""

    def __init__(self, socket: Path) -> None:
        self.environment = os.environ | {"DOCKER_HOST": f"unix://{socket}"}

    def __call__(self, *arguments: object, **how) -> str:
        """Run docker; its output. Raises AssertionError with what it said."""
        done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True,
                              env=self.environment, **how)  # fmt: skip
        if done.returncode:
            raise AssertionError(f"docker {arguments}: {done.stdout}{done.stderr}")
        return done.stdout.strip()


def why_not() -> str:
    """Why no daemon can be started here; empty if one can."""
    if not shutil.which("dockerd"):
        return "dockerd is not installed"
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        return "Docker Compose is not installed"
    if Path("/var/run/docker.pid").exists():
        return "a Docker daemon runs here, and its images are not the tests' to replace"
    return ""


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[Docker]:
    """A daemon with nothing in it but the images that compose.yaml pulls."""
    socket, data = folder / "docker.sock", container.CACHE / "docker"
    line = ["dockerd", f"--host=unix://{socket}", f"--data-root={data}",
            f"--exec-root={folder / 'exec'}", f"--pidfile={folder / 'pid'}"]  # fmt: skip
    docker = Docker(socket)
    with (
        (folder / "dockerd.log").open("w") as log,
        subprocess.Popen(line, stdout=log, stderr=log) as process,
    ):
        try:
            while subprocess.run(["docker", "info"], env=docker.environment,
                                 capture_output=True).returncode:  # fmt: skip
                assert process.poll() is None, (folder / "dockerd.log").read_text()[-2000:]
                time.sleep(0.5)
            with _index(docker) as (variables, certificate):
                _debian(docker, folder, variables, certificate)
                docker("build", "-t", "prom/prometheus:v3.5.0", "-", input=PROMETHEUS)
                docker("build", "-t", "grafana/grafana:12.1.0", "-", input=GRAFANA)
                yield docker
        finally:
            process.terminate()


class _Files(http.server.SimpleHTTPRequestHandler):
    """Serves the folders of `shown`, under their full names, and nothing else."""

    shown: tuple[str, ...] = ()

    def send_head(self):  # type: ignore[override]
        path = os.path.realpath(self.translate_path(self.path))
        if not f"{path}/".startswith(tuple(f"{os.path.realpath(top)}/" for top in self.shown)):
            self.send_error(404)
            return None
        return super().send_head()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def _index(docker: Docker) -> Iterator[tuple[dict[str, str], str | None]]:
    """What pip is told inside, and the file of its certificates; folders are served over HTTP."""
    host = docker("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    variables, files = container.pip_configuration()
    certificate = files.pop(variables.get("PIP_CERT", ""), None)
    _Files.shown = tuple(files)
    with http.server.ThreadingHTTPServer(
        (host, 0), functools.partial(_Files, directory="/")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://{host}:{server.server_address[1]}"
        for name in {"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"} & variables.keys():
            words = [word.removeprefix("file://") for word in variables[name].split()]
            words = [f"{here}{word}/" if word.startswith("/") else word for word in words]
            variables[name] = " ".join(words)
        yield variables | {"PIP_TRUSTED_HOST": host}, certificate
        server.shutdown()


def _debian(
    docker: Docker, folder: Path, variables: dict[str, str], certificate: str | None
) -> None:
    """Import a bare Debian under the name of the base image, with what pip is told."""
    root = container.bare_debian("bookworm")
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        docker("import", "-", "bare", stdin=tar.stdout)
    context = folder / "base"
    context.mkdir()
    lines = ["FROM bare", *(f'ENV {name}="{value}"' for name, value in variables.items())]
    if certificate:
        shutil.copy(certificate, context / "certificate")
        lines.append(f"COPY certificate {variables['PIP_CERT']}")
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    docker("build", "-t", "debian:12-slim", context)
