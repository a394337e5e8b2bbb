"""Triton's administrative services are closed to whoever has no key."""

import json
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from launch import hardening
from launch.run_folder import RunFolder
from launch.server import LaunchError, Server

KEY = "0123456789abcdef" * 2
CLOSED = (
    "GET /v2/systemsharedmemory/status", "GET /v2/cudasharedmemory/status", "GET /v2/logging",
    "POST /v2/logging", "GET /v2/trace/setting", "POST /v2/trace/setting",
    "POST /v2/repository/index", "POST /v2/repository/models/doubling/load",
)  # fmt: skip
OPEN = ("GET /v2/health/live", "GET /v2/health/ready", "GET /v2/models/doubling/ready", "GET /v2",
        "GET /v2/models/doubling", "GET /v2/models/doubling/config",
        "GET /v2/models/stats")  # fmt: skip


def status(server: Server, asked: str, **headers: str) -> int:
    method, path = asked.split()
    body = b"{}" if method == "POST" else None
    request = urllib.request.Request(
        f"http://{server.http_url}{path}", body, headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.server
def test_what_is_closed_and_what_opens_it(toy: Path) -> None:
    with Server(toy, drains=True, flags=hardening.flags(KEY, ["trace"])) as server:
        trace = {asked for asked in CLOSED if "trace" in asked}
        for asked in CLOSED:
            assert (status(server, asked) == 403) == (asked not in trace), asked
            assert status(server, asked, **{hardening.HEADER: "no" + KEY}) in (403, 200)
        assert [status(server, asked) for asked in OPEN] == [200] * len(OPEN)
        key = {hardening.HEADER: KEY}
        assert status(server, "GET /v2/systemsharedmemory/status", **key) == 200
        assert status(server, "GET /v2/logging", **key) == 200
        assert status(server, "POST /v2/repository/index", **key) == 403  # opened by nobody
        with grpc.InferenceServerClient(server.grpc_url) as client:
            assert client.is_server_ready() and client.is_model_ready("doubling")
            for call in (client.get_system_shared_memory_status, client.get_log_settings,
                         client.get_model_repository_index):  # fmt: skip
                with pytest.raises(InferenceServerException):
                    call()
            client.get_trace_settings()
            keyed = {f"triton-grpc-protocol-{hardening.HEADER}": KEY}
            client.get_system_shared_memory_status(headers=keyed)
            assert json.loads(client.get_log_settings(headers=keyed, as_json=True) and "{}") == {}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    return RunFolder.create()


def test_a_new_key_is_nobody_elses(folder: RunFolder) -> None:
    file, key = hardening.key_in(None, folder)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(key) == 64 and file.read_text() == key
    hardening.forget(folder.path)
    assert hardening.key_in(None, folder)[1] != key


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (KEY, 0o644, "others may read it. Run: chmod 600"),
        ("short", 0o600, "has 5 characters, expected 16 or more letters and digits"),
        ("x" * 20 + "\ny: z", 0o600, "expected 16 or more letters and digits"),
        (None, 0o600, "No such file or directory"),
    ],
)
def test_a_key_file_that_will_not_do(folder: RunFolder, tmp_path: Path, text, mode, why) -> None:
    file = tmp_path / "given"
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(LaunchError, match=why):
        hardening.key_in(file, folder)


def test_services_by_name() -> None:
    assert hardening.opened("") == ()
    assert hardening.opened("trace, shared-memory") == ("trace", "shared-memory")
    with pytest.raises(LaunchError, match=r"--open health: expected some of shared-memory, logg"):
        hardening.opened("health")
    closed = hardening.flags(KEY, ["trace"])
    assert closed == [f"--{flag}=shared-memory,logging:admin-key={KEY}"
                      for flag in ("http-restricted-api", "grpc-restricted-protocol")]  # fmt: skip
    assert hardening.flags(KEY, hardening.CLOSED) == []
