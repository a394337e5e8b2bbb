"""What the supervisor does when a process ends or hangs, with stand-ins for the real ones."""

import contextlib
import io
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from launch import hardening
from launch import supervisor as supervising
from launch import watch as watching
from launch.address import ListenAddress
from launch.doors import page
from launch.proxy_process import ProxyProcess
from launch.restarts import Restarts
from launch.run_folder import RunFolder
from launch.server import LaunchError
from launch.supervisor import Supervisor
from support.launched import children, wait_until
from support.supervised import PROXY, FakeServer

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("error")]


def proxy(*arguments: str) -> ProxyProcess:
    ports = dict.fromkeys(("http", "grpc", "metrics"), 0)
    return ProxyProcess(
        ListenAddress.of("127.0.0.1"), ports, arguments, (sys.executable, "-c", PROXY)
    )


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        return True
    return False


def watched(supervisor: Supervisor, server: FakeServer, *acts: Callable[[], object]) -> None:
    """Watch while these acts are done, each when the one before has been answered by a start."""

    def act() -> None:
        for number, each in enumerate(acts, 1):
            wait_until(lambda number=number: server.starts == number and server.running)
            time.sleep(0.2)  # until it is watched
            each()

    thread = threading.Thread(target=act)
    thread.start()
    try:
        supervisor.watch()
    finally:
        thread.join()


@pytest.mark.parametrize(
    ("number", "of_stub", "reason", "said"),
    [
        (signal.SIGKILL, True, "model", "the process of fish_llama_0_0 (pid "),
        (signal.SIGKILL, False, "server", "tritonserver ended with signal SIGKILL: as planted"),
        (signal.SIGSTOP, True, "stopped", "fish_llama_0_0 (pid "),
    ],
    ids=["stub", "server", "stopped stub"],
)
def test_a_death_is_answered_by_a_start_and_too_many_by_giving_up(
    folder: RunFolder, capfd, number, of_stub, reason, said
) -> None:
    server = FakeServer(folder.path)
    restarts = Restarts(1, folder.path / "state.prom")

    def strike() -> None:
        os.kill(server.stub if of_stub else server.pid, number)

    begin = time.monotonic()
    with (
        pytest.raises(LaunchError, match=r"1 restarts within 5 minutes were not") as given_up,
        Supervisor(server, None, restarts, folder) as served,  # type: ignore[arg-type]
    ):
        watched(served, server, strike, strike)
    assert time.monotonic() - begin < 20
    assert server.starts == 2 and restarts.counts[reason] == 1
    assert said in str(given_up.value)
    assert str(given_up.value).endswith("Its log ended with:\nstart 2\nas planted")
    errors = capfd.readouterr().err
    assert f"serve: {said}" in errors and "; starting again\n" in errors
    assert "serving again after " in errors
    state = (folder.path / "state.prom").read_text()
    assert f'restarts_total{{reason="{reason}"}} 1' in state
    assert (folder.path / "server.log").exists()  # to be read
    assert not server.running


def test_zero_restarts_are_as_before(folder: RunFolder, capfd) -> None:
    server = FakeServer(folder.path)
    with (
        pytest.raises(LaunchError, match=r"^tritonserver ended with signal SIGKILL"),
        Supervisor(server, None, Restarts(0, None), folder) as served,  # type: ignore[arg-type]
    ):
        watched(served, server, lambda: os.kill(server.pid, signal.SIGKILL))
    assert capfd.readouterr().err == ""


def test_a_start_that_fails_is_tried_again_later(folder: RunFolder, monkeypatch, capfd) -> None:
    slept: list[float] = []
    server = FakeServer(folder.path, failures=2)
    restarts = Restarts(3, None)
    # Its own name alone: threads of other tests sleep too.
    clock = SimpleNamespace(sleep=slept.append, monotonic=time.monotonic)
    monkeypatch.setattr(supervising, "time", clock)
    with Supervisor(server, None, restarts, folder) as served:  # type: ignore[arg-type]
        served._start_again(supervising.Death("model", "planted"))
        assert server.running
    assert slept == [0, 1, 2]
    assert restarts.counts == {"server": 0, "model": 1, "stopped": 0, "hung": 0, "start": 2,
                               "proxy": 0}  # fmt: skip
    assert capfd.readouterr().err.count("as planted; starting again in") == 2


def test_nobody_reads_what_it_says(folder: RunFolder, monkeypatch) -> None:
    """Its log is on a full disk, or in a pipe whose reader has gone; the server comes back."""
    server = FakeServer(folder.path)
    supervisor = Supervisor(server, None, Restarts(3, None), folder)  # type: ignore[arg-type]

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    with supervisor, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", Full())
        supervisor._start_again(supervising.Death("server", "planted"))
        assert server.starts == 2 and server.running


def test_something_clears_the_folder_for_temporary_files(folder: RunFolder) -> None:
    file, key = hardening.key_in(None, folder)
    server = FakeServer(folder.path)
    supervisor = Supervisor(server, None, Restarts(3, None), folder)  # type: ignore[arg-type]
    with supervisor:
        shutil.rmtree(folder.path.parent)
        supervisor._start_again(supervising.Death("model", "planted"))
        assert server.starts == 2 and server.running
        assert hardening.key_in(file, folder) == (file, key)
        RunFolder.create().remove()  # another start does not take it for an ended server's
        assert file.is_file()
    assert not folder.path.exists()


def test_the_proxy_is_told_when_the_server_has_other_ports(folder: RunFolder) -> None:
    class Moving(FakeServer):
        def start(self, meanwhile: Callable[[], None]) -> None:
            self.ports = {use: port + 1 for use, port in self.ports.items()}
            super().start(meanwhile)

    server, front = Moving(folder.path), proxy()
    supervisor = Supervisor(server, front, Restarts(3, None), folder)  # type: ignore[arg-type]
    with supervisor:
        ports, first = dict(front.ports), front.pid
        server.stop()
        supervisor._start_what_is_gone()
        told = Path(f"/proc/{front.pid}/cmdline").read_text()
        assert front.pid != first and front.ports == ports
        assert f"--server-grpc=127.0.0.1:{server.ports['grpc']}" in told


def test_the_proxy_starts_while_the_models_load(folder: RunFolder) -> None:
    class Loading(FakeServer):
        def start(self, meanwhile: Callable[[], None]) -> None:
            super().start(meanwhile)
            wait_until(lambda: front.running)
            while_loading.append(front.pid)

    while_loading, front = list[int](), proxy()
    server = Loading(folder.path)
    with Supervisor(server, front, Restarts(3, None), folder) as served:  # type: ignore[arg-type]
        assert while_loading == [front.pid]
        server.stop()
        served._start_what_is_gone()  # the ports are the same: so is the proxy
        assert while_loading == [front.pid] * 2 and is_open(front.ports["http"])


def test_a_proxy_that_does_not_reach_the_server_yet_is_waited_for(folder: RunFolder) -> None:
    """One that was started before the server tries again only after a pause."""
    server, front = FakeServer(folder.path), proxy("--late=0.5")
    with Supervisor(server, front, Restarts(3, None), folder):  # type: ignore[arg-type]
        assert page(*front.http_address, "/v2/health/ready") is not None


def test_a_proxy_that_dies_is_started_again_alone(folder: RunFolder) -> None:
    server, front = FakeServer(folder.path), proxy()
    with (
        pytest.raises(SystemExit),
        Supervisor(server, front, Restarts(3, None), folder) as served,  # type: ignore[arg-type]
    ):
        ports, first = dict(front.ports), front.pid

        def ends() -> None:
            os.kill(front.pid, signal.SIGKILL)
            wait_until(lambda: first not in children(os.getpid()))
            wait_until(lambda: is_open(ports["grpc"]))
            os.kill(os.getpid(), signal.SIGUSR1)

        def leave(*_: object) -> None:
            raise SystemExit(0)

        signal.signal(signal.SIGUSR1, leave)
        watched(served, server, ends)
    assert server.starts == 1 and front.ports == ports
    assert not front.running and not server.running
    assert not folder.path.exists()


def test_who_answers_nobody_is_found(folder: RunFolder, monkeypatch, capfd) -> None:
    monkeypatch.setattr(watching, "EVERY_S", 0.1)
    monkeypatch.setattr(watching, "PATIENCE_S", 0.1)
    server, front = FakeServer(folder.path), proxy("--hangs=yes")
    with (
        pytest.raises(LaunchError, match="proxy: no answer: timed out"),
        Supervisor(server, front, Restarts(1, None), folder) as served,  # type: ignore[arg-type]
    ):
        served.watch()
    assert server.starts == 1
    (folder.path / "fish_cancel").mkdir(parents=True)
    (folder.path / "fish_cancel/config.pbtxt").touch()
    server.start()
    with watching.Watch(server, None) as watch:  # type: ignore[arg-type]
        wait_until(lambda: watch.problem)
        server.stop()
    assert watch.reason == "hung"
    assert watch.problem.startswith("fish_cancel: no answer: ")


def test_a_proxy_drains(folder: RunFolder) -> None:
    for arguments, limit_s, drained in ((("--busy=0.2",), 30, True), (("--busy=9",), 0, False)):
        front = proxy(*arguments)
        front.start({"http": "h:1", "grpc": "h:2", "metrics": "h:3"})
        front.wait_until_open()
        begin = time.monotonic()
        assert front.drain(limit_s) is drained
        assert time.monotonic() - begin < 4
        front.stop()
        assert front.drain(1)  # it has gone


@pytest.mark.parametrize(
    ("program", "why"),
    [("raise SystemExit(4)", "exit status 4"), ("print('no')", "said b'no.n', expected its ports")],
)
def test_a_proxy_that_does_not_start(program: str, why: str) -> None:
    ports = {"http": 0}
    front = ProxyProcess(
        ListenAddress.of("127.0.0.1"), ports, command=(sys.executable, "-c", program)
    )
    front.start({"http": "127.0.0.1:1"})
    with pytest.raises(LaunchError, match=why):
        front.wait_until_open()
    assert not front.running


def test_sigterm_to_tritonserver_itself_ends_the_watch(folder: RunFolder, monkeypatch) -> None:
    server = FakeServer(folder.path)
    monkeypatch.setattr(supervising.processes, "is_pending", lambda pid, _: pid == server.pid)
    with (
        pytest.raises(SystemExit) as left,
        Supervisor(server, None, Restarts(3, None), folder) as served,  # type: ignore[arg-type]
    ):
        served.watch()
    assert left.value.code == 0


def test_restarts_are_counted_within_a_while() -> None:
    now = 0.0
    restarts = Restarts(3, None, lambda: now)
    assert [restarts.note("model") for _ in range(4)] == [0, 1, 2, None]
    now = 301
    assert restarts.note("server") == 4  # none of these starts has served
    restarts.serving(2.5)
    assert restarts.note("server") == 0
    text = restarts.text()
    assert 'voicereel_supervisor_restarts_total{reason="model"} 3\n' in text
    assert 'voicereel_supervisor_restarts_total{reason="proxy"} 0\n' in text
    assert "voicereel_supervisor_recovery_seconds 2.5\n" in text
    assert 'voicereel_supervisor_last_restart_seconds{reason="server"} ' in text
