"""Addresses, proxies, a server that goes and comes back, and forks."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from support.command_line import run
from support.fake_server import FakeServer, chunk, whole
from voicereel import Client, InvalidRequest, ServerUnavailable
from voicereel import settings as settings_module
from voicereel.transport import repeats
from voicereel.transport.address import Address, address_of

PROJECT = Path(__file__).resolve().parents[2]
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)


def spoken(_: dict) -> Iterator[dict]:
    yield chunk(0, is_last=True) | whole(np.zeros(64))


@pytest.mark.parametrize(
    ("url", "protocol", "expected"),
    [
        ("127.0.0.1:9101", "grpc", Address("grpc", "127.0.0.1", 9101)),
        ("grpc://127.0.0.1:9101", "grpc", Address("grpc", "127.0.0.1", 9101)),
        ("http://127.0.0.1:9100", "grpc", Address("http", "127.0.0.1", 9100)),
        ("http://127.0.0.1:9100/", "http", Address("http", "127.0.0.1", 9100)),
        ("HTTP://Speech.example", "grpc", Address("http", "Speech.example", 8000)),
        ("speech", "grpc", Address("grpc", "speech", 8001)),
        (" speech.example:1 ", "http", Address("http", "speech.example", 1)),
        ("[::1]:9101", "grpc", Address("grpc", "::1", 9101)),
        ("http://[fe80::1%eth0]:9100", "http", Address("http", "fe80::1%eth0", 9100)),
    ],
)
def test_addresses(url: str, protocol, expected: Address) -> None:
    assert address_of(url, protocol) == expected
    assert address_of(str(expected), expected.protocol) == expected


@pytest.mark.parametrize(
    ("url", "protocol", "message"),
    [
        ("", "grpc", "is '', expected HOST:PORT"),
        ("a b:1", "grpc", "expected HOST:PORT"),
        ("host:port", "grpc", "expected HOST:PORT"),
        ("host:0", "grpc", "expected HOST:PORT"),
        ("host:65536", "grpc", "expected HOST:PORT"),
        ("::1:8001", "grpc", "An IPv6 address stands in brackets"),
        ("ftp://host:1", "grpc", "expected HOST:PORT"),
        ("http://host:1/v2", "grpc", "expected HOST:PORT"),
        ("grpcs://host:1", "http", "the protocol asked for is http"),
        ("grpc://host:1", "http", "the protocol asked for is http"),
    ],
)
def test_what_is_no_address(url: str, protocol, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("[", r"\[")):
        Client(url, protocol)


def test_the_command_line_takes_what_the_ready_line_prints(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for url in (fake.url, f"grpc://{fake.url}", fake.url.replace("127.0.0.1", "localhost")):
        assert run("ready", "--url", url)[0] == 0
        monkeypatch.setenv("VOICEREEL_URL", url)
        settings_module.settings.cache_clear()
        assert run("ready")[0] == 0
    settings_module.settings.cache_clear()
    code, out, err = run("ready", "--url", "ftp://speech:1")
    assert (code, out) == (2, "")
    assert "expected HOST:PORT" in err and "Traceback" not in err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("variable", PROXIES[:3])
def test_no_proxy_for_this_machine(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, host: str, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    fake.answer = spoken
    with Client(fake.url.replace("127.0.0.1", host)) as client:
        assert client.ready()
        assert client.synthesize("Hello.").finish_reason == "stop"


@pytest.mark.parametrize("variable", PROXIES[:3])
def test_a_proxy_in_the_way_is_named(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    calls = (lambda c: c.synthesize("a"), lambda c: list(c.stream("a")), lambda c: c.health())
    with Client("192.0.2.1:8001", timeout_s=5) as client:
        for call in calls:
            with pytest.raises(ServerUnavailable) as caught:
                call(client)
            assert f"variable {variable} sends this call through" in str(caught.value)
            assert "export no_proxy=192.0.2.1" in str(caught.value)


@pytest.mark.parametrize(
    ("excepted", "host", "named"),
    [
        ("speech.example", "speech.example", False),
        (".example", "speech.example", False),
        ("other, 192.0.2.0/24", "192.0.2.1", False),
        ("other", "speech.example", True),
        ("", "speech.example", True),
    ],
)
def test_an_exception_from_the_proxy(
    monkeypatch: pytest.MonkeyPatch, excepted: str, host: str, named: bool
) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", excepted)
    assert bool(address_of(f"{host}:1").proxy) == named
    assert address_of(f"http://{host}:1").proxy == ""  # that transport knows no proxies


def later(port: int, after_s: float, stop: threading.Event) -> threading.Thread:
    """Start a server on a port after so many seconds, until an event."""

    def serve() -> None:
        time.sleep(after_s)
        with FakeServer(port) as server:
            server.answer = spoken
            stop.wait(20)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.slow
@pytest.mark.parametrize("outage_s", [0.0, 1.5])
@pytest.mark.parametrize("way", ["unary", "stream"])
def test_a_client_outlives_its_server(outage_s: float, way: str) -> None:
    def call(client: Client) -> None:
        client.synthesize("a") if way == "unary" else list(client.stream("a"))

    stop = threading.Event()
    with FakeServer() as first:
        first.answer = spoken
        client = Client(first.url, timeout_s=10)
        call(client)
    with contextlib.suppress(ServerUnavailable):  # it learns that nobody is there
        client.health()
    thread = later(int(first.url.split(":")[1]), outage_s, stop)
    try:
        if not outage_s:
            while not client.ready():
                time.sleep(0.01)
            call(Client(first.url))  # a fresh one in the same process
        call(client)
    finally:
        stop.set()
        thread.join()
        client.close()


def test_a_known_server_is_waited_for_within_the_timeout_of_the_call() -> None:
    with FakeServer() as first:
        client = Client(first.url, timeout_s=10)
        assert client.ready()
    begin = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"refused \(for [1-7] s\)"):
        client.synthesize("a", timeout_s=1.4)
    assert 1 < time.monotonic() - begin < 8  # of the 10 that the client has
    begin = time.monotonic()
    assert not client.ready()  # says at once what is so now
    assert time.monotonic() - begin < 5
    client.close()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_server_that_was_never_there_is_not_waited_for(protocol) -> None:
    begin = time.monotonic()
    with Client("127.0.0.1:1", protocol) as client, pytest.raises(ServerUnavailable):
        client.synthesize("a")
    assert time.monotonic() - begin < 5


class Chance:
    """The calls of a server that breaks off the connection in some of them."""

    def __init__(self, breaks: int) -> None:
        self.breaks, self.calls = breaks, 0

    def attempt(self) -> str:
        self.calls += 1
        if self.calls <= self.breaks:
            raise repeats.NoConnection("Socket closed", sent=True)
        return "spoken"


@pytest.mark.parametrize(
    ("breaks", "audio_came", "calls"), [(1, False, 2), (2, False, 2), (1, True, 1)]
)
def test_what_was_sent_is_repeated_once_and_never_after_audio(
    breaks: int, audio_came: bool, calls: int
) -> None:
    chance = Chance(breaks)
    attempts = repeats.Repeats(Address("grpc", "127.0.0.1", 1), repeats.RETURN_S, 5)
    with pytest.raises(ServerUnavailable) if chance.breaks >= calls else contextlib.nullcontext():
        while True:
            try:
                assert chance.attempt() == "spoken"
                break
            except repeats.NoConnection as problem:
                attempts.or_raise(problem, audio_came)
    assert chance.calls == calls


FORKS = """
import multiprocessing, os, sys
from voicereel import Client

which, in_mid_call, url = sys.argv[1], sys.argv[2] == "busy", sys.argv[3]

def speak(client):
    list(client.stream("a"))
    client.synthesize("a")

def child(i):
    try:
        speak(client if which == "inherited" else Client(url, timeout_s=10))
        os._exit(0)
    except BaseException as error:
        os.write(1, f"{type(error).__name__} {error}\\n".encode())  # whole, beside the others
        os._exit(1)

client = Client(url, timeout_s=10)
speak(client)
if in_mid_call:
    begun = client.stream("busy")
    next(begun)
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(i,)) for i in range(16)]
for each in children:
    each.start()
for each in children:
    each.join(15)
print([each.exitcode for each in children].count(0), "worked")
if in_mid_call:
    assert len(list(begun)) == 1  # the parent's stream goes on
speak(client)
os._exit(0)
"""


def forked(url: str, which: str, busy: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, which, busy, url],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "client")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def slow_if_busy(inputs: dict) -> Iterator[dict]:
    if inputs["text"].item() == b"busy":
        yield chunk(0)
        time.sleep(3)
        yield chunk(1, is_last=True)
    else:
        yield from spoken(inputs)


@pytest.mark.parametrize("which", ["inherited", "fresh"])
def test_a_client_works_after_a_fork(fake: FakeServer, which: str) -> None:
    fake.answer = slow_if_busy
    assert forked(fake.url, which, "idle") == "16 worked\n"


@pytest.mark.slow
@pytest.mark.parametrize("which", ["inherited", "fresh"])
def test_a_fork_in_mid_call_is_refused_in_the_child(fake: FakeServer, which: str) -> None:
    fake.answer = slow_if_busy
    *said, last = forked(fake.url, which, "busy").splitlines()
    assert last == "0 worked"
    assert len(said) == 16
    assert {line.partition(",")[0] for line in said} == {
        "ConfigurationError this process was forked while its parent waited for a call"
    }
