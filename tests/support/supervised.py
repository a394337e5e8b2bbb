"""Stand-ins for a tritonserver with its stubs, and for the proxy: what `launch.supervisor` sees."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from launch.tritonserver import LaunchError

# A server whose one stub, which sleeps, has a stub's name and arguments.
_SERVER = """
import subprocess, sys, time
stub = subprocess.Popen(
    ["triton_python_backend_stub", "-c", "import time; time.sleep(600)", *"34567",
     "fish_llama_0_0"],
    executable=sys.executable,
)
print(stub.pid, flush=True)
time.sleep(600)
"""
PROXY = """
import json, signal, socket, sys, threading, time
asked = dict(a.lstrip("-").split("=") for a in sys.argv[1:])
def end(*_):
    time.sleep(float(asked.get("busy", 0)))
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
doors = {use: socket.create_server(("127.0.0.1", int(asked[f"{use}-port"])))
         for use in ("http", "grpc", "metrics")}
begin = time.monotonic()
def answer():
    while True:
        caller, _ = doors["http"].accept()
        caller.recv(4096)
        is_ready = time.monotonic() > begin + float(asked.get("late", 0))
        status = b"200 OK" if is_ready else b"503 Not ready"
        caller.sendall(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 0\\r\\n\\r\\n")
        caller.close()
if "hangs" not in asked:
    threading.Thread(target=answer, daemon=True).start()
print(json.dumps({"ready": True} | {u: d.getsockname()[1] for u, d in doors.items()}), flush=True)
while True:
    time.sleep(0.05)
"""


class FakeServer:
    """As `launch.server.Server` for the supervisor; `failures` of its starts fail."""

    def __init__(self, folder: Path, failures: int = 0) -> None:
        self.repository, self.log_path = folder, folder / "server.log"
        self.ports = {"http": 1, "grpc": 2, "metrics": 3}
        self.starts, self.stops, self.stub = 0, list[float](), 0
        self.failures, self._process = failures, None

    def start(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.starts, self.stub = self.starts + 1, 0
        self.log_path.write_text(f"start {self.starts}\nas planted\n")
        if 1 < self.starts <= 1 + self.failures:
            raise LaunchError("as planted")
        meanwhile()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True
        )
        self.stub = int(self._process.stdout.readline())

    def stop(self, patience_s: float = 0) -> None:
        self.stops.append(patience_s)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.stub, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return bool(self.stub) and self._process.poll() is None

    def wait(self) -> int:
        return self._process.wait()

    def url(self, use: str) -> str:
        return f"127.0.0.1:{self.ports[use]}"

    @property
    def http_address(self) -> tuple[str, int]:
        return "127.0.0.1", self.ports["http"]

    def has(self, model: str) -> bool:
        return (self.repository / model).is_dir()

    def metrics(self) -> str:
        return ""
