"""Where a server listens: names, IPv6, and what is none of this machine's."""

import socket

import pytest

from launch.address import ListenAddress
from launch.server import LaunchError, Server
from support.launched import ready, serve
from voicereel import Client
from voicereel.transport.address import address_of


@pytest.mark.parametrize(
    ("name", "flags", "url"),
    [
        ("localhost", ("127.0.0.1", "127.0.0.1"), "127.0.0.1:1"),
        ("127.0.0.2", ("127.0.0.2", "127.0.0.2"), "127.0.0.2:1"),
        ("0.0.0.0", ("0.0.0.0", "0.0.0.0"), "127.0.0.1:1"),
        ("::1", ("ipv6:::1", "[::1]"), "[::1]:1"),
        ("[::1]", ("ipv6:::1", "[::1]"), "[::1]:1"),
        ("::", ("ipv6:::", "[::]"), "[::1]:1"),
    ],
)
def test_what_tritonserver_and_clients_are_told(name: str, flags: tuple, url: str) -> None:
    address = ListenAddress.of(name)
    assert (address.flag("http"), address.flag("grpc"), address.url(1)) == (*flags, url)
    assert address.flag("metrics") == flags[0]
    assert str(address_of(address.url(1))) == url


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("192.0.2.1", "address 192.0.2.1 is none of this machine's"),
        ("2001:db8::1", "address 2001:db8::1 is none of this machine's"),
        ("no-such-host.invalid", "address 'no-such-host.invalid': "),
        ("", "address '': "),
    ],
)
def test_an_unusable_address_is_said_at_once(toy, name: str, why: str) -> None:
    with pytest.raises(LaunchError) as raised:
        Server(toy, address=name).start()
    assert str(raised.value).startswith(why)
    assert "Choose another with --address: 127.0.0.1" in str(raised.value)


def test_ports_are_chosen_and_checked() -> None:
    address = ListenAddress.of("127.0.0.1")
    ports = address.free_ports({"http": 0, "grpc": 0})
    assert len(set(ports.values())) == 2
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=f"grpc port {port} at 127.0.0.1: Address already"):
            address.free_ports({"grpc": port})
    with pytest.raises(LaunchError, match=r"http port 70000 at 127.0.0.1: .*--http-port"):
        address.free_ports({"http": 70_000})


@pytest.mark.server
@pytest.mark.parametrize("name", ["localhost", "::1", "0.0.0.0"])
def test_every_address_that_is_printed_works(toy, name: str) -> None:
    if name == "::1" and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with serve("--repository", toy, "--address", name) as process:
        facts = ready(process)
        for url in (f"grpc://{facts['grpc']}", f"http://{facts['http']}", facts["grpc"]):
            with Client(url) as client:
                assert client._transport.is_ready(None, 10)  # the toy has no front doors
        process.terminate()
        process.communicate(timeout=60)


def test_a_port_that_was_taken_since_the_last_start_is_chosen_anew(toy) -> None:
    server = Server(toy)
    server.ports = before = server._free_ports()
    assert server._free_ports() == before
    with socket.create_server(("127.0.0.1", before["grpc"])):
        after = server._free_ports()
        assert after["grpc"] != before["grpc"]
        named = Server(toy, grpc_port=before["grpc"])
        with pytest.raises(LaunchError, match="Address already in use"):
            named._free_ports()
