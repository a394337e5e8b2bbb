"""What the operator decides, checked at the start."""

from dataclasses import dataclass
from pathlib import Path

from proxy.doors import GROUPS
from proxy.load import LONGEST_WAIT_S

MIB = 2**20


@dataclass(frozen=True)
class Settings:
    """Attributes:
    address: Name or IP address to listen at.
    http_port, grpc_port, metrics_port: 0: any free one.
    server_http, server_grpc, server_metrics: HOST:PORT of the tritonserver.
    state: File in Prometheus' format that is added to the metrics, or None.
    key: Opens all doors to a caller that has it; "": none does.
    opened: Groups of doors that are open to all; see `proxy.doors.GROUPS`.
    max_body_mib: MiB of one request, unpacked. tritonserver's own limit for HTTP is 64.
    longest_wait_s: Seconds that a request may wait for others; 0: any number.
    slow_reader_s: Seconds after which a caller that reads nothing is given up.
    probe_s: Seconds between two signs of life of each model; 0: they are not asked.
    grace_s: Seconds that requests in flight may take to end after SIGTERM.
    """

    address: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    server_http: str = "127.0.0.1:8000"
    server_grpc: str = "127.0.0.1:8001"
    server_metrics: str = "127.0.0.1:8002"
    state: Path | None = None
    key: str = ""
    opened: frozenset[str] = frozenset()
    max_body_mib: int = 64
    longest_wait_s: float = LONGEST_WAIT_S
    slow_reader_s: float = 60.0
    probe_s: float = 1.0
    grace_s: float = 300.0

    @property
    def max_body(self) -> int:
        """Bytes of one request."""
        return self.max_body_mib * MIB


def opened_of(names: str) -> frozenset[str]:
    """The groups of `--open`.

    Raises:
        ValueError: Names the one that there is not.
    """
    found = frozenset(name.strip() for name in names.split(",") if name.strip())
    if unknown := sorted(found - set(GROUPS)):
        raise ValueError(f"--open has {unknown[0]!r}, expected some of {','.join(GROUPS)}.")
    return found


def key_of(path: Path | None) -> str:
    """The key in a file, without the white space around it.

    Raises:
        ValueError: If it cannot be read, others than its owner may read it, or it is too short.
    """
    if path is None:
        return ""
    try:
        text, mode = path.read_text("utf-8").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--key-file {path}: {error}.") from None
    if mode & 0o077:
        raise ValueError(f"--key-file {path} can be read by others. chmod 600 {path}")
    if len(text) < 16:
        raise ValueError(f"--key-file {path} has {len(text)} characters, expected 16 or more.")
    return text
