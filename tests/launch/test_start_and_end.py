"""Starting and ending a real tritonserver: nothing of it is left."""

import contextlib
import os
import signal
import urllib.request
from pathlib import Path

import pytest
from tritonclient import grpc

from launch import processes, run_folder
from launch import serve as launch_serve
from launch.server import LaunchError, Server
from support import toys
from support.launched import (
    alive,
    children,
    place_slow,
    ready,
    regions,
    released,
    run_name,
    runs,
    serve,
    wait_until,
)

pytestmark = pytest.mark.slow


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
    server.stop()  # does nothing


@pytest.mark.server
def test_profiles(toy) -> None:
    (toy / "doubling/configs").mkdir()
    text = (toy / "doubling/config.pbtxt").read_text()
    profile = text.replace("max_batch_size: 8", "max_batch_size: 3")
    (toy / "doubling/configs/small.pbtxt").write_text(profile)
    with Server(toy, "small") as server, grpc.InferenceServerClient(server.grpc_url) as client:
        assert client.get_model_config("doubling").config.max_batch_size == 3
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
        wait_until(lambda: len(children(process.pid)) == 2)
        pid, proxy = children(process.pid)
        name = run_name(pid)
        wait_until(lambda: len(regions(name)) == 2)  # both models are being loaded
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0
    wait_until(lambda: not alive(pid))  # a stub that had to be killed
    assert not alive(proxy)
    assert not regions(name)


@pytest.mark.server
def test_a_killed_server_is_reported_and_the_next_start_removes_its_remains(toy) -> None:
    with serve("--repository", toy, "--restarts=0") as process:
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
    wait_until(lambda: released(server.log_path.parent / "lock"))
    assert regions(name)
    with Server(toy):
        assert not regions(name)
        assert not server.log_path.exists()


@pytest.mark.server
def test_a_server_does_not_outlive_its_parent(toy) -> None:
    with serve("--repository", toy) as process:
        pid = int(ready(process)["pid"])
        process.kill()
        process.wait()
        wait_until(lambda: not alive(pid), seconds=60)


def test_a_running_servers_folder_is_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(run_folder, "SHARED_MEMORY", tmp_path)
    running, ended = run_folder.RunFolder.create(), run_folder.RunFolder.create()
    region = tmp_path / f"{ended.name}_region"
    region.touch()
    ended.release()
    assert ended.path.exists()
    run_folder.RunFolder.create()
    assert running.path.exists()
    assert not ended.path.exists() and not region.exists()


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", "v1;ls", "wörter"])
def test_a_repository_may_lie_at_any_path(tmp_path, monkeypatch, name) -> None:
    """Triton's shell would take it for several words: its server hung until the deadline."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    repository = tmp_path / name / "repository"
    (repository / "fish_tts").mkdir(parents=True)
    folder = run_folder.RunFolder.create()
    plain = folder.plain(repository)
    assert plain.is_relative_to(folder.path) and (plain / "fish_tts").is_dir()
    assert folder.plain(tmp_path / "v1+2" / "repository") == tmp_path / "v1+2" / "repository"
    folder.release()
    run_folder.RunFolder.create().release()  # removes what has ended, and not where it leads
    assert not folder.path.exists() and (repository / "fish_tts").is_dir()


class Stopping:
    """A server that a test stops; a second signal may come while it drains."""

    def __init__(self, drained: bool, second_signal: bool = False) -> None:
        self.drained, self.second_signal = drained, second_signal
        self.limits_s, self.patience_s = [], []

    def drain(self, limit_s: float) -> bool:
        self.limits_s.append(limit_s)
        if self.second_signal:
            raise SystemExit(0)
        return self.drained

    def stop(self, patience_s: float | None = None) -> None:
        self.patience_s.append(patience_s)


@pytest.mark.parametrize(
    ("server", "patience_s"),
    [
        (Stopping(True), None),
        (Stopping(False), launch_serve.NOW_S),
        (Stopping(True, second_signal=True), launch_serve.NOW_S),
    ],
    ids=["drained", "limit", "second signal"],
)
def test_how_long_a_server_may_take_to_end(server: Stopping, patience_s, capsys) -> None:
    with pytest.raises(SystemExit) if server.second_signal else contextlib.nullcontext():
        launch_serve._end(server, 7)  # type: ignore[arg-type]
    assert (server.limits_s, server.patience_s) == ([7], [patience_s])
    said = capsys.readouterr().err
    left = "serve: requests were still in flight after 0 s\n"
    assert said == ("" if server.drained else left)


@pytest.mark.parametrize(("value", "arguments"), [("x", []), ("-1", []), ("5", ["--drain=-1"])])
def test_a_wrong_limit_is_refused_before_anything_starts(
    toy, monkeypatch, value, arguments
) -> None:
    monkeypatch.setenv("VOICEREEL_DRAIN_S", value)
    with serve("--repository", toy, *arguments) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode in (1, 2) and output == ""
    assert ("--drain" if arguments else f"serve: VOICEREEL_DRAIN_S is {value!r}") in errors


AFTER_ITS_SERVER = "select.select([server], [], [])\n    select.select([], [], [], 0.1)"


@pytest.mark.server
@pytest.mark.parametrize(("since", "guard_s"), [(AFTER_ITS_SERVER, 600), ("time.sleep(3)", 2)])
def test_a_model_that_waits_with_pythons_lock_ends_with_its_server(
    toy, monkeypatch, since, guard_s
) -> None:
    """As one that logs when the server is killed; its own threads can do nothing then.

    It ends by itself if they could still notice, and by the guard of its server if not.
    """
    monkeypatch.setattr(processes, "_GUARD_S", guard_s)
    (toys.place(toy, "holding", toys.config("python", {"x": "FP32 1"}, {"y": "FP32 1"}))
     / "model.py").write_text(
        "import ctypes, os, select, threading, time\n"
        "from ensemble.serving.own_server import end_with_it\n"
        "def hold(server):\n"
        f"    {since}\n"
        "    open('/proc/self/comm', 'w').write('holding')\n"
        "    ctypes.PyDLL(None).sleep(600)\n"
        "class TritonPythonModel:\n"
        "    def initialize(self, args):\n"
        "        end_with_it()\n"
        "        server = os.pidfd_open(os.getppid())\n"
        "        threading.Thread(target=hold, args=[server]).start()\n"
    )  # fmt: skip
    server = Server(toy)
    server.start()
    try:
        (stub,) = (p for p, name in processes.stubs(server.pid).items() if name == "holding_0_0")
        if since != AFTER_ITS_SERVER:
            wait_until(lambda: "holding" in Path(f"/proc/{stub}/comm").read_text())
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not runs(stub))
    finally:
        server.stop()
