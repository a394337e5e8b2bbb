"""The gateway as its Deployment starts it: its variables, and the doors that its probes ask.

The server's are tried in tests/server/test_server_drain.py.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from gateway.guards import hash_of
from support.fake_server import FakeServer
from support.gateway import SPEECH, chunks, tone
from support.launched import wait_until
from support.manifests import of_component, rendered

PROJECT = Path(__file__).resolve().parents[2]
KEY, METRICS_KEY = "vr-app", "vr-prometheus"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The Deployment's variables; volumes lie in a folder of the test."""
    gateway = of_component(rendered("overlays/cpu"), "gateway")
    (secret,) = (v["secret"] for v in gateway.spec["volumes"] if "secret" in v)
    mounts = {m["name"]: m["mountPath"] for m in gateway.container["volumeMounts"]}
    for path in mounts.values():
        (tmp_path / path[1:]).mkdir()
    (item,) = secret["items"]
    hashes = "".join(f"{hash_of(key)}  {key}\n" for key in (KEY, METRICS_KEY))
    (tmp_path / mounts["keys"][1:] / item["path"]).write_text(hashes)
    inside = re.compile(rf"^(?=({'|'.join(mounts.values())})(/|$))")
    return {name: inside.sub(str(tmp_path), v) for name, v in gateway.environment.items()}


@pytest.fixture
def started(environment: dict[str, str]) -> Iterator[tuple[str, FakeServer]]:
    """Its address, and the server that its headless Service has."""
    with FakeServer() as server:
        server.answer = lambda _: chunks(tone(0.1))
        name, port = environment["VOICEREEL_GATEWAY_SERVERS"], server.url.rpartition(":")[2]
        assert re.fullmatch(r"dns:///[\w-]+:8001", name)
        variables = environment | {
            "VOICEREEL_GATEWAY_SERVERS": f"dns:///localhost:{port}",
            "VOICEREEL_GATEWAY_PORT": "0",
            "PYTHONPATH": f"{PROJECT}:{PROJECT / 'client'}",
        }
        command = [sys.executable, "-m", "gateway"]  # the image's entry point
        with subprocess.Popen(
            command, env={"PATH": os.environ["PATH"]} | variables, cwd=PROJECT,
            stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            try:
                line = process.stdout.readline()
                yield line.split()[1].removesuffix("/v1").replace("0.0.0.0", "127.0.0.1"), server
            finally:
                process.kill()


@pytest.mark.slow
def test_the_gateway_runs_and_answers_its_probes(started: tuple[str, FakeServer]) -> None:
    url, server = started
    gateway = of_component(rendered("overlays/cpu"), "gateway")

    def probe(kind: str) -> int:
        asked = gateway.container[kind]["httpGet"]
        assert asked["port"] == "http"  # and no header, so no key
        return httpx2.get(url + asked["path"], timeout=10, trust_env=False).status_code

    probes = ("startupProbe", "readinessProbe", "livenessProbe")
    wait_until(lambda: [probe(each) for each in probes] == [200] * 3)

    def asked(path: str, key: str, **how: object) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        method = "POST" if how else "GET"
        return httpx2.request(method, url + path, headers=headers, trust_env=False, **how)

    assert asked("/v1/audio/speech", "", json=SPEECH).status_code == 401
    assert asked("/v1/audio/speech", KEY, json=SPEECH).status_code == 200
    # As the ServiceMonitor scrapes it: `support.manifest_links.monitors` has looked at that.
    assert "# TYPE voicereel_gateway_in_flight gauge" in asked("/metrics", METRICS_KEY).text
    assert asked("/metrics", "").status_code == 401
    server.__exit__()
    wait_until(lambda: probe("readinessProbe") == 503)
    assert [probe("livenessProbe"), probe("startupProbe")] == [200, 200]
