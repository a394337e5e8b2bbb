"""Servers within TLS, which must prove their names."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import grpc
import pytest

from support.fake_server import FakeServer, chunk
from voicereel import Client, ServerUnavailable
from voicereel.transport.address import Address, address_of

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key, and its certificate for localhost and 127.0.0.1, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    key, found = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", found],
        check=True, capture_output=True,
    )  # fmt: skip
    return key, found


@pytest.fixture
def fake(certificate: tuple[Path, Path]) -> Iterator[FakeServer]:
    pair = tuple(path.read_bytes() for path in certificate)
    with FakeServer(credentials=grpc.ssl_server_credentials([pair])) as server:
        server.answer = lambda _: iter([chunk(0, is_last=True)])
        yield server


@pytest.fixture
def web(certificate: tuple[Path, Path]) -> Iterator[str]:
    """HOST:PORT of an HTTPS server that is ready."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    key, found = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(found, key)
    server = HTTPServer(("127.0.0.1", 0), Ready)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_grpc_within_tls(fake: FakeServer, certificate, monkeypatch, host: str) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with Client(f"grpcs://{fake.url.replace('127.0.0.1', host)}", timeout_s=20) as client:
        assert client.ready()
        (sound,) = client.stream("Hi")
        assert sound.is_last


def test_http_within_tls(web: str, certificate, monkeypatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with Client(f"https://{web}", timeout_s=20) as client:
        assert client.ready()


def test_a_server_that_cannot_prove_its_name_hears_nothing(fake: FakeServer, web: str) -> None:
    for url in (f"grpcs://{fake.url}", f"https://{web}"):
        with Client(url, timeout_s=3, return_s=0) as client, pytest.raises(ServerUnavailable):
            client.synthesize("Hi")
    assert fake.requests == []


def test_addresses() -> None:
    assert address_of("grpcs://speech") == Address("grpc", "speech", 443, is_secure=True)
    assert address_of("https://speech:1") == Address("http", "speech", 1, is_secure=True)
