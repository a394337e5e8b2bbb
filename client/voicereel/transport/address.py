"""Where a server is: HOST:PORT, or the URL as the server's ready line prints it."""

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from voicereel.errors import InvalidRequest
from voicereel.text import checked_text

Protocol: TypeAlias = Literal["grpc", "http"]
_EVERY = "dns:///"  # as gRPC writes a name that stands for several addresses
_PORTS: dict[Protocol, int] = {"grpc": 8001, "http": 8000}  # as tritonserver has them
_SCHEMES: dict[str, tuple[Protocol, bool]] = {  # protocol, TLS
    "grpc": ("grpc", False), "grpcs": ("grpc", True),
    "http": ("http", False), "https": ("http", True),
}  # fmt: skip
_TLS_PORT = 443
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
        name: The name that this is one of several addresses of, or "". A server hears it, so that
            a proxy finds whom the call is for.
        is_secure: Whether it is spoken within TLS.
        is_every: Whether every address of the host is asked for: dns:///HOST:PORT.
    """

    protocol: Protocol
    host: str
    port: int
    name: str = ""
    is_secure: bool = False
    is_every: bool = False

    def __str__(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine by its name, so that no proxy can help to reach it."""
        if self.is_numeric:
            return ipaddress.ip_address(self.host).is_loopback
        return self.host.lower().rstrip(".") in ("localhost", "ip6-localhost")

    @property
    def is_numeric(self) -> bool:
        """Whether the host is an IP address."""
        try:
            return bool(ipaddress.ip_address(self.host))
        except ValueError:
            return False

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
        url: HOST:PORT, grpc://HOST:PORT or http://HOST:PORT, with grpcs:// and https:// within TLS;
            HOST is a name, an IPv4 address or an IPv6 address in brackets. Left out, the port is
            8001 for gRPC, 8000 for HTTP and 443 within TLS.
            dns:///HOST:PORT is every address of a name, as gRPC writes it.
        protocol: What is spoken if the URL does not say it; "http" contradicts grpc://.

    Raises:
        InvalidRequest: If it is none of these.
    """
    is_every = url.strip().lower().startswith(_EVERY)
    found = _URL.fullmatch(url.strip()[len(_EVERY) * is_every :])
    expected = "expected HOST:PORT, or grpc://, grpcs://, http:// or https:// and HOST:PORT"
    if found is None:
        v6 = f" An IPv6 address stands in brackets: [{url}]:8001." if url.count(":") > 1 else ""
        raise InvalidRequest(f"the server's address is {url!r}, {expected}.{v6}")
    scheme, port = (found["scheme"] or protocol).lower(), int(found["port"] or 0)
    if scheme not in _SCHEMES or (found["port"] and not 1 <= port <= 65535):
        raise InvalidRequest(f"the server's address is {url!r}, {expected}.")
    spoken, is_secure = _SCHEMES[scheme]
    if spoken == "grpc" and protocol == "http":
        raise InvalidRequest(f"the server's address is {url!r}, but the protocol asked for is http")
    default = _TLS_PORT if is_secure else _PORTS[spoken]
    host = found["v6"] or found["host"]
    return Address(spoken, host, port or default, is_secure=is_secure, is_every=is_every)


def addresses_of(urls: str | Sequence[str], protocol: Protocol = "grpc") -> list[Address]:
    """Read one address or several: a list, or a text with commas; errors are `address_of`'s.

    Raises:
        InvalidRequest: If there is none, or some speak gRPC and others HTTP.
    """
    given = urls.split(",") if isinstance(urls, str) else list(urls)
    found = list(dict.fromkeys(address_of(checked_text(url, "url"), protocol) for url in given))
    if not found:
        raise InvalidRequest("there is no address of a server, expected at least one HOST:PORT")
    if len({address.protocol for address in found}) > 1:
        raise InvalidRequest(
            f"the servers' addresses are {', '.join(map(str, given))}: some speak gRPC and others "
            "HTTP, expected one of the two"
        )
    return found
