"""The address that a server listens at: what tritonserver wants to hear, and how it is reached."""

import errno
import ipaddress
import socket
from dataclasses import dataclass

from launch.tritonserver import LaunchError

_CHOOSE = (
    "Choose another with --address: 127.0.0.1 (this machine only), 0.0.0.0 (all its IPv4 "
    "addresses), :: (all its IPv6 addresses), or one of this machine's"
)
# An address of every interface is none to connect to; this machine reaches itself by these.
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class ListenAddress:
    """An IP address of this machine.

    Attributes:
        ip: Without brackets.
    """

    ip: str

    @classmethod
    def of(cls, name: str) -> "ListenAddress":
        """Look up a name or an address, whose brackets may be there; IPv4 goes first.

        Raises:
            LaunchError: If there is no such name.
        """
        try:
            found = socket.getaddrinfo(name.strip("[]") or None, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise LaunchError(f"address {name!r}: {why}. {_CHOOSE}") from None
        ips = sorted((str(ipaddress.ip_address(sockaddr[0])) for *_, sockaddr in found),
                     key=lambda ip: ":" in ip)  # fmt: skip
        return cls(ips[0])

    @property
    def is_v6(self) -> bool:
        """Whether it is an IPv6 address."""
        return ":" in self.ip

    @property
    def host(self) -> str:
        """An address by which this machine reaches it, without brackets."""
        return _EVERYWHERE.get(self.ip, self.ip)

    def url(self, port: int) -> str:
        """HOST:PORT for a client on this machine."""
        return f"[{self.host}]:{port}" if self.is_v6 else f"{self.host}:{port}"

    def flag(self, use: str) -> str:
        """The value of tritonserver's option `--<use>-address`."""
        if not self.is_v6:
            return self.ip
        return f"[{self.ip}]" if use == "grpc" else f"ipv6:{self.ip}"

    def free_ports(self, wanted: dict[str, int]) -> dict[str, int]:
        """Check the ports that are named, and choose a free one where 0 is asked for.

        Raises:
            LaunchError: If one is taken, or the address is none of this machine's.
        """
        held, chosen = [], {}
        try:
            for use, port in wanted.items():
                probe = socket.socket(socket.AF_INET6 if self.is_v6 else socket.AF_INET)
                held.append(probe)  # open until all are chosen, so that none is chosen twice
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((self.ip, port))
                except (OSError, OverflowError) as error:
                    raise LaunchError(self._why_not(use, port, error)) from None
                chosen[use] = probe.getsockname()[1]
        finally:
            for probe in held:
                probe.close()
        return chosen

    def _why_not(self, use: str, port: int, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL):
            return f"address {self.ip} is none of this machine's. {_CHOOSE}"
        why = getattr(error, "strerror", None) or error
        return f"{use} port {port} at {self.ip}: {why}. Choose another with --{use}-port"
