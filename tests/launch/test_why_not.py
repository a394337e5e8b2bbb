"""Why a server could not be started, in one line that says what to do."""

import socket
from pathlib import Path

import pytest

from ensemble.contract import distribution
from launch import interpreter, startup_log, tritonserver
from launch.server import LaunchError, Server
from support import toys
from support.launched import place_slow, regions, serve
from support.machine import RELEASES
from support.native import stand_ins

pytestmark = pytest.mark.slow


@pytest.mark.server
def test_a_deadline_ends_what_hangs(toy, monkeypatch) -> None:
    # Another run of pytest may start a server now, which removes what ended ones left.
    monkeypatch.setattr("tempfile.tempdir", str(toy.parent))
    place_slow(toy)
    server = Server(toy, deadline_s=4)
    # A busy machine may not have loaded the toy's other model either.
    still = r"not ready after 4 s: still loading: (doubling, )?slow\. Log: "
    with pytest.raises(LaunchError, match=still):
        server.start()
    assert "loading: slow:1" in server.log_path.read_text()  # kept, to be read
    assert not regions(server.log_path.parent.name)


def failed_serve(*arguments: object) -> str:
    with serve(*arguments) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith("serve: ") and errors.count("\n") == 1, errors
    return errors


@stand_ins
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


@pytest.mark.server
@pytest.mark.parametrize("times", [1, 2])
def test_a_server_that_aborts_is_started_once_more(toy, tmp_path, times) -> None:
    text = toys.config("python", {"x": "FP32 1"}, {"y": "FP32 1"})
    tried = tmp_path / "tried"
    (toys.place(toy, "aborting", text) / "model.py").write_text(
        "import os, time\n"
        f"with open({str(tried)!r}, 'a+') as tried:\n"
        "    tried.write('.')\n"
        f"    is_last = tried.tell() > {times}\n"
        "if not is_last:\n"
        "    os.kill(os.getppid(), 6)\n"
        "    time.sleep(9)\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        "        return []\n"
    )
    server = Server(toy)
    if times == 1:
        with server:
            assert server.running
    else:
        with pytest.raises(LaunchError, match="tritonserver ended with signal SIGABRT"):
            server.start()
    assert tried.read_text() == ".."


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


@pytest.mark.parametrize(
    ("release", "version", "remedy"),
    [
        ("debian 12", "3.11", "as root: apt-get install -y libpython3.11"),
        ("ubuntu 24.04", "3.12", "as root: apt-get install -y python3.12-dev"),
        ("debian 13", "3.11", "make setup takes or fetches a Python that has one"),
        ("fedora", "3.12", "make setup takes or fetches a Python that has one"),
    ],
)
def test_says_what_to_install_where_python_has_no_library(
    tmp_path, monkeypatch, release, version, remedy
) -> None:
    (tmp_path / "os-release").write_text(RELEASES[release])
    monkeypatch.setattr(distribution, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(interpreter, "VERSION", version)
    monkeypatch.setattr("sysconfig.get_config_var", lambda _: "libpython3.no.so")
    # The headers of 3.12 and gcc are not what this test is about.
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "gcc" else None)
    with pytest.raises(LaunchError, match=rf"has no shared libpython, .*; {remedy}$"):
        tritonserver.find(tmp_path)


def test_a_moved_python_has_its_library_beside_itself(tmp_path, monkeypatch) -> None:
    library = interpreter.libpython()
    assert library is not None and library.is_file()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / library.name).symlink_to(library)
    values = {"LIBDIR": "/install/lib", "INSTSONAME": library.name}  # as it was built
    monkeypatch.setattr("sysconfig.get_config_var", values.get)
    monkeypatch.setattr("sys.base_prefix", str(tmp_path))
    assert interpreter.libpython() == tmp_path / "lib" / library.name


def test_a_static_python_has_no_library(monkeypatch) -> None:
    for name in ("", "libpython3.11.a"):
        monkeypatch.setattr("sysconfig.get_config_var", lambda _, name=name: name)
        assert interpreter.libpython() is None


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
