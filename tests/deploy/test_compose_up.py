"""`docker compose up`, as docs/deploy.md has it: built, started, heard, scraped, and stopped.

`make test-images` runs it where dockerd and Docker Compose are, as root: 10 minutes.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

from support import docker as dockers
from support.docker import Docker
from voicereel import Client

pytestmark = pytest.mark.root
PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "deploy.md").read_text("utf-8")
COMPOSE = ("compose", "-f", "deploy/compose.yaml", "--profile", "cpu")
SERVING = ("gateway", "grafana", "prometheus", "server-cpu")


@pytest.fixture(scope="module")
def docker(tmp_path_factory) -> Iterator[Docker]:
    if reason := dockers.why_not():
        pytest.skip(reason)
    with dockers.daemon(tmp_path_factory.mktemp("docker")) as docker:
        yield docker
        docker(*COMPOSE, "down", "--volumes", cwd=PROJECT)


def up(docker: Docker, checkpoint: object = "") -> subprocess.CompletedProcess:
    """The page's command."""
    (line,) = re.findall(r"^docker (compose .* up --detach --wait) ", PAGE, re.MULTILINE)
    return subprocess.run(["docker", *line.split()], cwd=PROJECT, text=True, capture_output=True,
                          env=docker.environment | {"CHECKPOINT": str(checkpoint)})  # fmt: skip


def state(docker: Docker, name: str) -> dict:
    return json.loads(docker("inspect", f"voicereel-{name}-1"))[0]


def said(docker: Docker, name: str) -> str:
    done = subprocess.run(["docker", "logs", f"voicereel-{name}-1"], env=docker.environment,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    return done.stdout


def asked(query: str) -> list[dict]:
    url = f"http://127.0.0.1:9090/api/v1/query?query={query}"
    return json.load(urllib.request.urlopen(url, timeout=10))["data"]["result"]


def test_the_pages_lines_speak_and_are_seen(docker: Docker, tmp_path: Path) -> None:
    begin = time.monotonic()
    done = up(docker)
    assert done.returncode == 0, done.stdout + done.stderr
    print(f"up after {time.monotonic() - begin:.0f} s")
    assert "export: CHECKPOINT is not set, so the demo voice is exported" in said(
        docker, "export-cpu"
    )
    line, *_ = re.findall(r"^curl .* -o hello.mp3 .*$", PAGE, re.MULTILINE)
    subprocess.run(["sh", "-c", line], cwd=tmp_path, check=True)
    heard, rate = soundfile.read(tmp_path / "hello.mp3")
    assert 0.5 < len(heard) / rate < 15 and abs(heard).max() > 0.05
    with Client("127.0.0.1:8001") as client:
        assert client.synthesize("Good morning, Bob.", seed=3).duration_s > 0.5
    for name in SERVING:
        found = state(docker, name)
        assert found["HostConfig"]["ReadonlyRootfs"], name
        assert found["Config"]["User"] not in ("", "0", "root"), name
        assert found["State"]["Health"]["Status"] == "healthy", name
    limit = time.monotonic() + 60  # Prometheus looks every 15 s
    while [found["value"][1] for found in asked("up")] != ["1", "1"]:
        assert time.monotonic() < limit, asked("up")
        time.sleep(1)


def test_a_checkpoint_that_cannot_be_read_is_never_replaced_by_the_demo_voice(
    docker: Docker, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    done = up(docker, tmp_path / "nowhere")
    assert done.returncode and "does not exist" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    mine = Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))
    mine.chmod(0o700)
    done = up(docker, mine)
    assert done.returncode
    assert f"may not read /checkpoint of CHECKPOINT={mine}" in said(docker, "export-cpu")
    (tmp_path / "empty").mkdir()
    done = up(docker, tmp_path / "empty")
    assert done.returncode and "config.json" in said(docker, "export-cpu")


def test_another_checkpoint_is_served_after_the_next_up(
    docker: Docker, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    assert up(docker).returncode == 0
    with Client("127.0.0.1:8001") as client:
        before = client.checkpoint().checkpoint_id
    mine = Path(shutil.copytree(tiny_checkpoint, tmp_path / "mine"))
    done = up(docker, mine)
    assert done.returncode == 0, done.stdout + done.stderr
    with Client("127.0.0.1:8001") as client:
        assert client.checkpoint().checkpoint_id != before


def test_a_stop_ends_each_by_itself(docker: Docker) -> None:
    assert up(docker).returncode == 0
    docker(*COMPOSE, "stop", cwd=PROJECT)
    # uvicorn ends the gateway by the signal that it was sent, once all answers are whole.
    for name, status in {"gateway": 143, "server-cpu": 0, "prometheus": 0}.items():
        assert state(docker, name)["State"]["ExitCode"] == status, said(docker, name)[-2000:]
