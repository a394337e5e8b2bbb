"""A tiny checkpoint, exported once, and a real tritonserver on it."""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from launch.server import Server

# The kernels of a GPU run in Triton's interpreter where there is none. Triton asks when it is first
# imported, so this comes before any test does so.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Several runs of pytest share the cores (`make test`): threads that wait must not spin on them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# One thread each, since the processes fill the cores; what threads do is tried in tests/kernels and
# on the session's server.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background job has SIGINT ignored, and so would every process that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("project", deadline=None)
settings.load_profile("project")

PROJECT = Path(__file__).resolve().parents[1]
CACHE = PROJECT / "build" / "tests"
KEPT_S = 2 * 60 * 60  # longer than a run of all tests takes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first, so that no process is left alone with one of them at the end."""
    slow = {
        item.path
        for item in items
        if item.get_closest_marker("slow") or item.get_closest_marker("server")
    }
    items.sort(key=lambda item: item.path not in slow)  # stable: the order in a file stays


def _export_key() -> str:
    """What the exported repository depends on: this project's files."""
    digest = hashlib.sha256()
    for folder in ("engine", "ensemble", "export", "families", "model_repository"):
        for path in sorted((PROJECT / folder).rglob("*.p*")):
            if path.suffix in (".py", ".pbtxt"):
                digest.update(str(path.relative_to(PROJECT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _run(*arguments: object) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, arguments))}:\n{done.stdout}{done.stderr}", pytrace=False)


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Folder with `checkpoint` and `repository`, made when what it depends on has changed.

    VOICEREEL_TINY names one made elsewhere: the export's ONNX half needs packages that a machine
    with a GPU may lack.
    """
    if given := os.environ.get("VOICEREEL_TINY"):
        return Path(given)
    CACHE.mkdir(parents=True, exist_ok=True)
    made = CACHE / _export_key()
    with (CACHE / "lock").open("w") as lock:  # two runs of pytest must not make it side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _forget_old()
            _make(made)
    return made


def _forget_old() -> None:
    """Remove what was made from older sources. Another run of pytest may still use a recent one."""
    for folder in (path for path in CACHE.iterdir() if path.is_dir()):
        if time.time() - folder.stat().st_mtime > KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _make(made: Path) -> None:
    with tempfile.TemporaryDirectory(dir=CACHE) as new:
        checkpoint, repository = Path(new, "made/checkpoint"), Path(new, "made/repository")
        _run("export", "make-checkpoint", "tiny", "--out", checkpoint)
        _run("export", "run", checkpoint, "--repository", repository, "--no-compile")
        os.rename(Path(new, "made"), made)


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny: Path) -> Path:
    """A Fish-Speech checkpoint of random weights, a few MB; not to be written to."""
    return tiny / "checkpoint"


@pytest.fixture(scope="module")
def codec(tiny_checkpoint: Path) -> Any:
    """Its genuine codec, in eval mode."""
    from families.fish_s1.checkpoint import (  # slow: not for tests without torch
        load_checkpoint,
        load_codec,
    )

    return load_codec(load_checkpoint(tiny_checkpoint))


@pytest.fixture(scope="session")
def repository(tiny: Path) -> Path:
    """The model repository exported from it; not to be written to."""
    return tiny / "repository"


@pytest.fixture(scope="session")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real tritonserver on it, for the whole session, which must live as long."""
    log = tmp_path_factory.mktemp("server") / "log"
    # Tests leave requests behind that Triton keeps in flight, and would wait for at the end.
    with Server(
        repository,
        log_path=log,
        flags=["--exit-timeout-secs=2"],
        environment={"OMP_NUM_THREADS": "2"},
    ) as server:
        yield server
        assert server.running, log.read_text()[-4000:]


@pytest.fixture(scope="module")
def llama(repository: Path) -> Any:
    """The tiny checkpoint's runner, in float32 on the CPU."""
    from engine.lm.load import load_runner
    from support.engine import FULL

    return load_runner(repository / "fish_llama" / "1", FULL)


@pytest.fixture(scope="module")
def builder(repository: Path) -> Any:
    """Its `PromptBuilder`."""
    from families.fish_s1.prompt import PromptBuilder

    return PromptBuilder(repository / "fish_prompt" / "1")


@pytest.fixture(scope="module")
def prompts(builder: Any) -> list[Any]:
    """Prompts without a voice, with one reference and with three, int32 (1 + codebooks, time)."""
    from support.engine import with_voices

    return [prompt for prompt, _ in with_voices(builder)]


@pytest.fixture(scope="module")
def spoken(prompts: list[Any], tiny_checkpoint: Path) -> list[Any]:
    """Speech of upstream's greedy `generate` for each of `prompts`."""
    from families.fish_s1.checkpoint import load_checkpoint, load_llama
    from support.engine import GREEDY
    from support.genuine import greedy

    model = load_llama(load_checkpoint(tiny_checkpoint))
    return [greedy(model, prompt, GREEDY.max_new_tokens) for prompt in prompts]
