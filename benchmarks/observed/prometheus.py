"""A real Prometheus on this machine, with the configuration of deploy/."""

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from benchmarks.observed.queries import RULES
from launch.address import ListenAddress

SCRAPE_S = 1
MISSING = "needs prometheus: apt-get install --no-install-recommends prometheus"
_PATIENCE_S = 30
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open  # no proxy to itself


class Prometheus:
    """Its HTTP API.

    Attributes:
        url: http://HOST:PORT.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series of a query now."""
        return self._asked("query", query=expr)["result"]

    def over(self, expr: str, begin: float, end: float) -> list[dict[str, Any]]:
        """The series of a query between two times, in seconds since 1970."""
        return self._asked("query_range", query=expr, start=begin, end=end, step=SCRAPE_S)["result"]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with its health."""
        return [rule for group in self._asked("rules")["groups"] for rule in group["rules"]]

    def _asked(self, what: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with _open(f"{self.url}/api/v1/{what}?{query}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None


@contextmanager
def running(targets: Mapping[str, str], folder: Path) -> Iterator[Prometheus]:
    """A Prometheus that scrapes every second.

    Args:
        targets: HOST:PORT by the name of the job.
        folder: Where it keeps its files.
    """
    configuration = yaml.safe_load(RULES.with_name("prometheus.yml").read_text("utf-8"))
    configuration["global"] = dict.fromkeys(configuration["global"], f"{SCRAPE_S}s")
    configuration["rule_files"] = [str(RULES)]
    for job in configuration["scrape_configs"]:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "series", ignore_errors=True)
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = ListenAddress.of("127.0.0.1").free_ports({"prometheus": 0})["prometheus"]
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'series'}",
        f"--web.listen-address={address}",
    ]
    with (
        (folder / "prometheus.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log) as process,
    ):
        try:
            _wait(f"http://{address}/-/ready", process)
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < give_up:
        try:
            with _open(url):
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("prometheus does not start; see prometheus.log")
