"""Connections that ask nothing, or speak no HTTP."""

import socket

from proxy import http_side
from support.proxied import logged, proxied


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


def test_bytes_that_are_no_http_do_not_fill_the_log(door, caplog) -> None:
    for url in (door.http_url, door.metrics_url.split("/")[2]):
        host, _, port = url.rpartition(":")
        for sent in (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"\xff\x00\r\n\r\n",
                     b"POST / HTTP/1.1\r\nHost : x\r\n\r\n"):  # fmt: skip
            with socket.create_connection((host, int(port)), timeout=5) as connection:
                connection.sendall(sent)
                assert connection.recv(100).startswith(b"HTTP/1.0 400")
    assert logged(caplog) == []
