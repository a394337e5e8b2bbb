"""Starting and ending a real tritonserver, and why it could not be started."""

import contextlib
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tritonclient import grpc

from launch import run_folder, startup_log, tritonserver
from launch.server import LaunchError, Server
from support import toys

PROJECT = Path(__file__).resolve().parents[2]
SLOW = """
import time
class TritonPythonModel:
    def initialize(self, args):
        time.sleep(600)
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    toys.place_doubling(tmp_path / "toy")
    return tmp_path / "toy"


def place_slow(repository: Path) -> None:
    text = toys.config("python", {"x": "FP32 1"}, {"y": "FP32 1"})
    (toys.place(repository, "slow", text) / "model.py").write_text(SLOW)


def regions(name: str) -> list[Path]:
    return list(run_folder.SHARED_MEMORY.glob(f"{name}*"))


def alive(group: int) -> bool:
    """Whether a server or any of its stubs still runs, zombies not counted."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def run_name(pid: int) -> str:
    """What a server's folder and shared memory are called."""
    command = Path(f"/proc/{pid}/cmdline").read_text()
    return re.findall(r"shm-region-prefix-name=(voicereel_[0-9a-f]{8})_", command)[0]


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def let_go(lock: Path) -> bool:
    """Whether the last thread of a server and its stubs is gone; zombies may have others."""
    with lock.open() as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def wait_until(condition, seconds: float = 20) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.05)


@contextlib.contextmanager
def serve(*arguments: object) -> Iterator[subprocess.Popen]:
    """`python -m launch.serve`, on free ports where none is named."""
    ports = [f"--{use}-port=0" for use in ("http", "grpc", "metrics")]
    command = [sys.executable, "-m", "launch.serve", *ports, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=PROJECT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen) -> dict[str, str]:
    line = process.stdout.readline()
    match = re.fullmatch(
        r"ready: (?P<repository>\S+)( \(profile (?P<profile>\w+)\))? at http://(?P<http>\S+) "
        r"grpc://(?P<grpc>\S+), metrics (?P<metrics>\S+), pid (?P<pid>\d+)\n",
        line,
    )
    assert match, line or process.communicate()
    return match.groupdict()


@pytest.mark.server
def test_a_server_as_a_context(toy) -> None:
    with Server(toy) as server:
        pid, name = server.pid, server.log_path.parent.name
        assert regions(name) and alive(pid)
        with urllib.request.urlopen(server.metrics_url) as page:
            assert b"nv_inference_request_summary_us" in page.read()
        with Server(toy) as second:  # several at once
            assert second.http_url != server.http_url
            assert regions(second.log_path.parent.name)
        assert alive(pid) and regions(name)
        assert "Started HTTPService" in server.log_path.read_text()
    assert not alive(pid)
    assert not regions(name)
    assert not server.log_path.exists()
    server.stop()  # harmless


@pytest.mark.server
def test_profiles_and_the_response_cache(toy) -> None:
    (toy / "doubling/configs").mkdir()
    text = (toy / "doubling/config.pbtxt").read_text()
    profile = text.replace("max_batch_size: 8", "max_batch_size: 3")
    profile += "response_cache { enable: true }"
    (toy / "doubling/configs/small.pbtxt").write_text(profile)
    with Server(toy, "small") as server, grpc.InferenceServerClient(server.grpc_url) as client:
        assert client.get_model_config("doubling").config.max_batch_size == 3
        x = grpc.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.ones((1, 2), np.float32))
        for _ in range(3):
            np.testing.assert_array_equal(client.infer("doubling", [x]).as_numpy("y"), [[2, 2]])
        (statistics,) = client.get_inference_statistics("doubling").model_stats
        assert statistics.inference_stats.cache_hit.count == 2
    with pytest.raises(LaunchError, match=r"configs/huge.pbtxt; profiles there: small$"):
        Server(toy, "huge").start()


@pytest.mark.server
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_says_ready_and_ends_cleanly(toy, number) -> None:
    with serve("--repository", toy) as process:
        facts = ready(process)
        assert (facts["repository"], facts["profile"]) == (str(toy), None)
        with urllib.request.urlopen(f"http://{facts['http']}/v2/health/ready") as answer:
            assert answer.status == 200
        name = run_name(int(facts["pid"]))
        assert regions(name)
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output, errors) == (0, "", "")
    assert not alive(int(facts["pid"]))
    assert not regions(name)


@pytest.mark.server
def test_serve_ends_cleanly_while_it_loads(toy) -> None:
    place_slow(toy)
    with serve("--repository", toy) as process:
        wait_until(lambda: children(process.pid))
        (pid,) = children(process.pid)
        name = run_name(pid)
        wait_until(lambda: len(regions(name)) == 2)  # both models are being loaded
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    wait_until(lambda: not alive(pid))  # a stub that had to be killed
    assert not regions(name)


@pytest.mark.server
def test_a_killed_server_is_said_and_its_remains_go_with_the_next_start(toy) -> None:
    with serve("--repository", toy) as process:
        pid = int(ready(process)["pid"])
        os.kill(pid, signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "tritonserver ended with signal SIGKILL" in errors
    assert errors.count("\n") == 1

    server = Server(toy)
    server.start()
    name, pid = server.log_path.parent.name, server.pid
    os.killpg(pid, signal.SIGKILL)  # as the kernel does when memory is short
    wait_until(lambda: let_go(server.log_path.parent / "lock"))
    assert regions(name)
    with Server(toy):
        assert not regions(name)
        assert not server.log_path.exists()


@pytest.mark.server
def test_a_server_does_not_outlive_who_started_it(toy) -> None:
    with serve("--repository", toy) as process:
        pid = int(ready(process)["pid"])
        process.kill()
        process.wait()
        wait_until(lambda: not alive(pid), seconds=60)


@pytest.mark.server
def test_a_deadline_ends_what_hangs(toy) -> None:
    place_slow(toy)
    server = Server(toy, deadline_s=4)
    with pytest.raises(LaunchError, match=r"not ready after 4 s: still loading: slow\. Log: "):
        server.start()
    assert "loading: slow:1" in server.log_path.read_text()  # kept, to be read
    assert not regions(server.log_path.parent.name)


def failed_serve(*arguments: object) -> str:
    with serve(*arguments) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("serve: ") and errors.count("\n") == 1, errors
    return errors


@pytest.mark.server
def test_serve_says_which_artefact_is_missing(toy) -> None:
    (toy / "doubling/1/model.onnx").unlink()
    errors = failed_serve("--repository", toy)
    assert f"doubling: {toy}/doubling/1/model.onnx is missing. " in errors
    assert "Make it with: make export CHECKPOINT=DIR" in errors


@pytest.mark.server
def test_serve_says_that_a_stub_ended(toy) -> None:
    text = toys.config("python", {"x": "FP32 1"}, {"y": "FP32 1"})
    (toys.place(toy, "dying", text) / "model.py").write_text("import os; os._exit(3)")
    assert "dying: Stub process 'dying_0_0' ended" in failed_serve("--repository", toy)


@pytest.mark.parametrize("use", ["http", "grpc", "metrics"])
def test_serve_says_which_port_is_taken(toy, use) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        errors = failed_serve("--repository", toy, f"--{use}-port={port}")
    assert f"{use} port {port} at 127.0.0.1: Address already in use" in errors
    assert f"--{use}-port" in errors


def test_serve_says_that_there_is_no_repository(tmp_path) -> None:
    assert f"repository {tmp_path}/no does not exist" in failed_serve(
        "--repository", tmp_path / "no"
    )
    assert f"repository {tmp_path} has no models" in failed_serve("--repository", tmp_path)


def test_says_what_to_install_where_there_is_no_server(toy, monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(LaunchError, match=r"no tritonserver: .*Install it with: make setup"):
        Server(toy).start()


@pytest.mark.skipif(Path("/opt/tritonserver").exists(), reason="has NVIDIA's own server")
def test_the_systems_server_comes_first_and_keeps_its_backends(tmp_path, monkeypatch) -> None:
    binary = tmp_path / "bin/tritonserver"
    binary.parent.mkdir()
    binary.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(binary.parent))
    found = tritonserver.find(tmp_path / "backends")
    assert (found.binary, found.flags) == (binary, ())
    assert found.environment.keys() == {"PYTHONPATH"}  # its stubs run the system's Python
    assert not (tmp_path / "backends").exists()


def test_says_what_to_install_where_python_has_no_library(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sysconfig.get_config_var", lambda _: "libpython3.no.so")
    with pytest.raises(LaunchError, match=r"no shared libpython.*apt-get install libpython3"):
        tritonserver.find(tmp_path)


def test_a_living_servers_folder_is_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(run_folder, "SHARED_MEMORY", tmp_path)
    living, dead = run_folder.RunFolder.create(), run_folder.RunFolder.create()
    region = tmp_path / f"{dead.name}_region"
    region.touch()
    dead.let_go()
    assert dead.path.exists()
    run_folder.RunFolder.create()
    assert living.path.exists()
    assert not dead.path.exists() and not region.exists()


LOADING = (
    "E1123 01:17:15.121029 9108 model_lifecycle.cc:642] \"failed to load '{}' version 1: "
    'Internal: {}\\n\\nAt:\\n  /a/model.py(34): initialize\\n"\n'
)
FOLLOWS = (
    'E1123 01:18:35.597677 12221 model_repository_manager.cc:703] "Invalid argument: ensemble '
    "'e' depends on 'a' which has no loaded version. Model 'a' loading failed with error: x;\"\n"
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (LOADING.format("a", "ValueError: a: bad\\nvalue"), "a: bad value"),
        (LOADING.format("a", "KeyError: 'x'"), "a: KeyError: 'x'"),
        (LOADING.format("a", "x") + LOADING.format("b", "y"), "a: x (also failed: b)"),
        (LOADING.format("a", "x") + FOLLOWS, "a: x"),
        (
            LOADING.format("a", "unable to find '/r/a/1/model.onnx' for model instance 'a_0'"),
            "a: unable to find '/r/a/1/model.onnx' for model instance 'a_0'. "
            "Make it with: make export CHECKPOINT=DIR",
        ),
        ("I1123 something\nterminate called\n", "tritonserver ended with exit status 1: termin"),
        ("", "tritonserver ended with exit status 1: the log is empty"),
    ],
)
def test_the_reason_is_read_from_the_log(tmp_path, text, expected) -> None:
    log = tmp_path / "server.log"
    log.write_text(text)
    reason = startup_log.why_it_ended(log, 1)
    assert reason.startswith(expected)
    assert reason.endswith(f". Log: {log}")
