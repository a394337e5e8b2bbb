"""nginx with the project's own example configuration, on free ports of this machine."""

import contextlib
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from support.launched import wait_until

PROJECT = Path(__file__).resolve().parents[2]
EXAMPLE = PROJECT / "deploy" / "nginx" / "voicereel.conf"
_MAIN = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{ access_log off; {paths} include {folder}/voicereel.conf; }}
"""
_KEPT = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def why_not() -> str:
    """Why nginx cannot be started here, or ""."""
    return "" if shutil.which("nginx") else "there is no nginx: apt-get install nginx-light"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextlib.contextmanager
def balancing(folder: Path, grpc: Sequence[str], http: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Start it in front of two servers; yields HOST:PORT of its gRPC and its HTTP service."""
    ports = free_port(), free_port()
    text = EXAMPLE.read_text("utf-8")
    for number, (one, other) in enumerate(zip(grpc, http, strict=True), start=1):
        text = text.replace(f"triton-{number}:8001", one).replace(f"triton-{number}:8000", other)
    text = text.replace("listen 8001 http2", f"listen 127.0.0.1:{ports[0]} http2")
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{ports[1]};")
    (folder / "voicereel.conf").write_text(text)
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in _KEPT)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, paths=paths))
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: _listens(ports[1]))
        yield f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
