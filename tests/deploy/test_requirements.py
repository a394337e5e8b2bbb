"""What the GPU image installs exists for its Python, 3.12; `make test-images` asks the index."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root
PROJECT = Path(__file__).resolve().parents[2]
# Packages without a wheel for 3.12, or without any: the image has gcc and headers to build them.
FROM_SOURCE = {"geventhttpclient", "antlr4-python3-runtime", "fish-speech", "descript-audio-codec"}


def test_the_requirements_of_the_gpu_image_resolve_for_python_3_12(tmp_path: Path) -> None:
    """As its Dockerfile installs them: the lists are complete, so without what they ask for."""
    (substitutions,) = re.findall(r"sed -i '(.*)'", (PROJECT / "deploy/Dockerfile").read_text())
    lines = []
    for name in ("serve", "export"):
        text = (PROJECT / "requirements" / f"{name}.txt").read_text()
        edited = subprocess.run(["sed", substitutions], input=text, capture_output=True, text=True)
        lines += edited.stdout.splitlines()
    packages = {line for line in lines if "==" in line and not line.startswith("#")}
    names = [package.partition("==")[0] for package in packages]
    assert len(names) == len(set(names))  # both lists agree on every version
    assert "nvidia-pytriton" not in names and "onnxruntime-gpu" not in names
    wheels = [p for p in packages if p.partition("==")[0] not in FROM_SOURCE]
    pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps"]
    done = subprocess.run(
        [*pip, "--python-version=3.12", "--implementation=cp", "--abi=cp312", "--abi=abi3",
         "--abi=none", *(f"--platform=manylinux_2_{n}_x86_64" for n in range(17, 40)),
         "--platform=manylinux2014_x86_64", "--only-binary=:all:", f"--target={tmp_path}", *wheels],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
