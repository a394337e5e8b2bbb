"""Names of servers, and the addresses that they stand for."""

import logging
import socket
from collections.abc import Iterable
from dataclasses import replace

from voicereel.transport.address import Address

log = logging.getLogger("voicereel.servers")


def may_be_several(address: Address) -> bool:
    """Whether it is a name that may stand for several addresses."""
    if address.is_numeric:
        return False
    return address.is_every or not (address.is_loopback or address.proxy)


def resolved(address: Address, known: Iterable[Address]) -> list[Address]:
    """The addresses that a name stands for; those known before if it cannot be resolved now.

    A name of one address, or of one in IPv4 and one in IPv6, stays a name: connecting by it tries
    both.
    """
    if not may_be_several(address):
        return [address]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        log.warning("cannot resolve %s: %s", address.host, error)
        before = [a for a in known if a.port == address.port and a.name == address.host]
        return before or ([] if address.is_every else [address])
    hosts = sorted({(int(family), str(place[0])) for family, *_, place in found})
    several = len({family for family, _ in hosts}) < len(hosts)
    if not (address.is_every or several):
        return [address]
    return [replace(address, host=host, name=address.host, is_every=False) for _, host in hosts]
