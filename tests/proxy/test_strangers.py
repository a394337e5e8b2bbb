"""Connections that ask nothing, or speak no HTTP."""

import socket
import subprocess
import sys
from pathlib import Path

from proxy import http_side
from support.proxied import logged, proxied

ROOT = Path(__file__).resolve().parents[2]


def test_a_connection_that_asks_nothing_is_closed(upstream, upstream_http, monkeypatch) -> None:
    monkeypatch.setattr(http_side, "IDLE_S", 0.3)
    with proxied(server_grpc=upstream.url, server_http=upstream_http.url,
                 server_metrics=upstream_http.url, probe_s=0) as door:  # fmt: skip
        for url in (door.http_url, door.metrics_url.split("/")[2]):
            for said in (b"", b"GET /metrics HTTP/1.1\r\nHost: "):
                host, _, port = url.rpartition(":")
                with socket.create_connection((host, int(port)), timeout=5) as connection:
                    connection.sendall(said)
                    assert connection.recv(100) == b""


def test_idle_callers_do_not_use_up_the_descriptors() -> None:
    script = (
        "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, r.getrlimit(r.RLIMIT_NOFILE)[1]))"
        "; import proxy.__main__ as m; m._allow_connections(); print(*r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    soft, hard = map(int, done.stdout.split())
    assert soft == (min(hard, 65_536) if hard > 0 else 65_536)


def test_bytes_that_are_no_http_do_not_fill_the_log(door, caplog) -> None:
    for url in (door.http_url, door.metrics_url.split("/")[2]):
        host, _, port = url.rpartition(":")
        for sent in (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\xff\x00\r\n\r\n",
                     b"POST / HTTP/1.1\r\nHost : x\r\n\r\n"):  # fmt: skip
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(sent)
                assert connection.recv(100).startswith(b"HTTP/1.0 400")
    assert logged(caplog) == []
