"""Where a server is: HOST:PORT, or the URL as the server's ready line prints it."""

import ipaddress
import os
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from voicereel.errors import InvalidRequest

Protocol: TypeAlias = Literal["grpc", "http"]
_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}  # as tritonserver has them
_URL = re.compile(
    r"(?:(?P<scheme>[a-z]+)://)?(?:\[(?P<v6>[0-9a-f:.%\w]+)\]|(?P<host>[^\s:/\[\]@?#]+))"
    r"(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
)
# gRPC reads these and no others, in this order, and only in small letters (grpcio 1.85).
_PROXIES, _EXCEPTIONS = ("grpc_proxy", "https_proxy", "http_proxy"), ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True)
class Address:
    """One service of a server.

    Attributes:
        protocol: What it speaks.
        host: Name or IP address, without brackets.
        port: TCP port.
    """

    protocol: Protocol
    host: str
    port: int

    def __str__(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine by its name, so that no proxy can help to reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower().rstrip(".") in ("localhost", "ip6-localhost")

    @property
    def proxy(self) -> str:
        """The environment variable, as NAME=VALUE, that makes gRPC go through a proxy, or ""."""
        set_ones = [f"{name}={value}" for name in _PROXIES if (value := os.environ.get(name))]
        if self.protocol != "grpc" or self.is_loopback or not set_ones or self._is_exception:
            return ""
        return set_ones[0]

    @property
    def _is_exception(self) -> bool:
        """Whether no_proxy leaves the host out, by its name's end or a subnet, as gRPC reads it."""
        text = next(filter(None, map(os.environ.get, _EXCEPTIONS)), "")
        return any(_covers(entry.strip(), self.host) for entry in text.split(",") if entry.strip())


def _covers(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower())


def address_of(url: str, protocol: Protocol = "grpc") -> Address:
    """Read an address.

    Args:
        url: HOST:PORT, grpc://HOST:PORT or http://HOST:PORT; HOST is a name, an IPv4 address or an
            IPv6 address in brackets. Left out, the port is 8001 for gRPC and 8000 for HTTP.
        protocol: What is spoken if the URL does not say it; "http" contradicts grpc://.

    Raises:
        InvalidRequest: If it is none of these.
    """
    found = _URL.fullmatch(url.strip())
    expected = "expected HOST:PORT, grpc://HOST:PORT or http://HOST:PORT"
    if found is None:
        v6 = f" An IPv6 address stands in brackets: [{url}]:8001." if url.count(":") > 1 else ""
        raise InvalidRequest(f"the server's address is {url!r}, {expected}.{v6}")
    scheme, port = (found["scheme"] or "").lower(), int(found["port"] or 0)
    if scheme in ("https", "grpcs"):
        raise InvalidRequest(f"the server's address is {url!r}: this client speaks no TLS. "
                             f"Let a proxy of yours do it; {expected}.")  # fmt: skip
    if scheme not in ("", *_PORTS) or (found["port"] and not 1 <= port <= 65535):
        raise InvalidRequest(f"the server's address is {url!r}, {expected}.")
    if scheme == "grpc" and protocol == "http":
        raise InvalidRequest(f"the server's address is {url!r}, but the protocol asked for is http")
    spoken: Protocol = "http" if "http" in (scheme, protocol) else "grpc"
    return Address(spoken, found["v6"] or found["host"], port or _PORTS[spoken])
