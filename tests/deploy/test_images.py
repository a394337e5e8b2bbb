"""The CPU and the gateway image are built, and speak: read-only, as another user, without weights.

`make test-images` runs it, as root, with debootstrap and buildah: 10 to 30 minutes, 6 GB in build/.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from support import container

pytestmark = pytest.mark.root
PROJECT = Path(__file__).resolve().parents[2]
USER = 10001
SPEAK = """
import json, sys, urllib.request
from voicereel import Client
with Client("127.0.0.1:8001") as client:
    audio = client.synthesize("Good morning, Bob.", seed=3)
body = {"model": "tts-1", "voice": "default", "input": "Good morning, Bob.", "seed": 3}
body = json.dumps(body | {"response_format": "wav", "stream": False}).encode()
headers = {"Content-Type": "application/json"}
request = urllib.request.Request("http://127.0.0.1:8080/v1/audio/speech", body, headers)
wav = urllib.request.urlopen(request, timeout=300).read()
peak = float(abs(audio.waveform).max())
heard = {"seconds": audio.duration_s, "peak": peak, "wav": len(wav), "riff": wav[:4].decode()}
print(json.dumps(heard))
"""


@pytest.fixture(scope="module")
def images() -> Iterator[SimpleNamespace]:
    """Both images, built: root folders and configurations."""
    container.base_image("docker.io/library/debian:12-slim", "bookworm")
    cpu = container.build("deploy/Dockerfile.cpu", "voicereel-server:cpu")
    gateway = container.build("deploy/Dockerfile.gateway", "voicereel-gateway")
    with container.mounted("voicereel-server:cpu") as server, \
         container.mounted("voicereel-gateway") as door:  # fmt: skip
        yield SimpleNamespace(cpu=(server, cpu), gateway=(door, gateway))


@pytest.mark.parametrize(("name", "most_gb"), [("cpu", 3.0), ("gateway", 0.8)])
def test_sizes_and_no_weights(images: SimpleNamespace, name: str, most_gb: float) -> None:
    root, config = getattr(images, name)
    used = int(subprocess.check_output(["du", "-sxb", root], text=True).split()[0])
    print(f"{name}: {used / 1e9:.2f} GB")
    assert used < most_gb * 1e9
    inside = [path.name for path in (root / "opt/voicereel").rglob("*")]
    assert not {n for n in inside if re.search(r"\.(pth|pt|onnx|safetensors|npz|key|env)$", n)}
    assert ".git" not in inside
    assert config["User"] == f"{USER}:{USER}"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_images_speak(images: SimpleNamespace, tmp_path: Path) -> None:
    for name in ("models", "cache", "voices", "checkpoint"):
        (tmp_path / name).mkdir(mode=0o777)
        os.chown(tmp_path / name, USER, USER)
    tmp_path.chmod(0o755)
    volumes = [f"{tmp_path}/models:/models", f"{tmp_path}/cache:/cache"]
    demo = [f"{PROJECT}/assets/demo:/opt/voicereel/assets/demo:ro",
            f"{tmp_path}/checkpoint:/checkpoint:ro"]  # fmt: skip
    (images.cpu[0] / "opt/voicereel/assets/demo").mkdir(parents=True, exist_ok=True)
    with container.network() as net:
        job = {"volumes": [*volumes, *demo],
               "entrypoint": ["/opt/voicereel/deploy/export_job.sh"]}  # fmt: skip
        said = container.run(*images.cpu, [], net, **job)
        assert "so the demo voice is exported" in said
        again = container.run(*images.cpu, [], net, **job)
        assert again == "export: /models/repository is up to date\n"
        # The server reads its models only.
        served = [f"{tmp_path}/models:/models:ro", volumes[1]]
        log = tmp_path / "server.log"
        with container.running(log, *images.cpu, None, net, volumes=served):
            print("healthy after", container.until_healthy(log, 600, *images.cpu, net))
            how = {"volumes": [f"{tmp_path}/voices:/voices"],
                   "environment": {"VOICEREEL_GATEWAY_SERVERS": "127.0.0.1:8001",
                                   "VOICEREEL_GATEWAY_OPEN": "true"}}  # fmt: skip
            door = tmp_path / "gateway.log"
            with container.running(door, *images.gateway, [], net, **how):
                container.until_healthy(door, 120, *images.gateway, net)
                heard = _speak(net)
        assert heard["riff"] == "RIFF"
        # The same sentence and seed, 16 bits at 24 kHz.
        assert heard["wav"] == pytest.approx(44 + heard["seconds"] * 48000, rel=0.01)
        assert 0.5 < heard["seconds"] < 15 and 0.05 < heard["peak"] <= 1
        assert "without kernels" not in log.read_text()
        assert list((tmp_path / "cache/.cache/voicereel-triton").glob("kernels-*.so"))


def _speak(net: int) -> dict:
    done = subprocess.run(
        ["nsenter", f"--target={net}", "--net", sys.executable, "-c", SPEAK],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
