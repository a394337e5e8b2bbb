"""Several addresses: who is asked, who is passed over, and what is compared."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from support.answers import AWAY, asked, refusing, said, saying
from support.fake_server import FakeServer
from support.launched import wait_until
from support.rude_server import rude
from voicereel import (
    Client,
    InvalidRequest,
    ServerError,
    ServerUnavailable,
)
from voicereel.client import SpeechFacts
from voicereel.transport import names, servers
from voicereel.transport.address import Address, addresses_of


@pytest.mark.parametrize(
    ("urls", "hosts"),
    [("a:1,b:2", ["a:1", "b:2"]), (["a:1", "b:2"], ["a:1", "b:2"]), ("a:1, a:1", ["a:1"]),
     (("grpc://a:1",), ["a:1"]), ("[::1]:1,b", ["[::1]:1", "b:8001"])],
)  # fmt: skip
def test_addresses_are_a_list_or_have_commas(urls, hosts: list[str]) -> None:
    assert [str(address) for address in addresses_of(urls)] == hosts


@pytest.mark.parametrize(
    ("urls", "message"),
    [([], "there is no address"), ("a:1,,b:1", "is ''"), ("a:1,http://b:1", "others HTTP"),
     (["a:1", 7], "url is int"), ("a:1,ftp://b", "expected HOST:PORT")],
)  # fmt: skip
def test_what_are_no_addresses(urls, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        Client(urls)


def test_requests_are_spread_and_a_server_that_is_away_is_passed_over(
    fakes: list[FakeServer],
) -> None:
    with Client([AWAY, *(fake.url for fake in fakes)], timeout_s=10) as client:
        assert 7 <= [said(client) for _ in range(20)].count(0) <= 13
        assert sum(map(asked, fakes)) == 20
        away = client.servers()[0]
        assert (away.url, away.is_up, away.in_flight) == (AWAY, False, 0)
        assert client.ready()


def test_the_one_with_the_fewest_in_flight_is_asked(fakes: list[FakeServer]) -> None:
    go_on = threading.Event()
    with Client([fake.url for fake in fakes], timeout_s=10) as client, ThreadPoolExecutor(1) as one:
        assert {said(client), said(client)} == {0, 1}

        def held(_: dict) -> Iterator[dict]:
            go_on.wait(10)
            yield from saying(0)(_)

        fakes[0].answer = held
        waiting = [one.submit(said, client)]
        wait_until(lambda: bool(sum(server.in_flight for server in client.servers())))
        if client.servers()[1].in_flight:  # it was the other's turn
            waiting.append(one.submit(said, client))
        wait_until(lambda: client.servers()[0].in_flight == 1)
        assert [said(client) for _ in range(5)] == [1] * 5
        go_on.set()
        assert waiting[-1].result() == 0


def test_a_server_that_returns_is_asked_again(
    fakes: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("voicereel.transport.server.SHUN_S", (0.2, 0.2))
    with Client([fake.url for fake in fakes], timeout_s=10) as client:
        assert {said(client), said(client)} == {0, 1}
        port = int(fakes[0].url.split(":")[1])
        fakes[0].__exit__()
        assert {said(client) for _ in range(4)} == {1}
        with FakeServer(port) as again:
            again.answer = saying(0.5)
            time.sleep(0.3)
            assert {said(client) for _ in range(4)} == {0.5, 1}


@pytest.mark.parametrize("way", ["unary", "stream"])
@pytest.mark.parametrize(
    ("message", "status"),
    [("fish_llama: overloaded: the queue is full", grpc.StatusCode.UNAVAILABLE),
     ("Request for unknown model: 'fish_tts' is not found", grpc.StatusCode.NOT_FOUND),
     ("Stub process 'fish_decoder_0_0' is not healthy.", grpc.StatusCode.INTERNAL)],
)  # fmt: skip
def test_a_server_that_cannot_is_passed_over(
    fakes: list[FakeServer], way: str, message: str, status: grpc.StatusCode
) -> None:
    fakes[0].answer = refusing(message, status)
    with Client([fake.url for fake in fakes], timeout_s=10, return_s=0) as client:
        for _ in range(4):
            if way == "unary":
                assert said(client) == 1
            else:
                assert [c.waveform[0] for c in client.stream("Hello.")] == [1]


@pytest.mark.parametrize("message", ["fish_llama: invalid request: no", "fish_llama: boom"])
def test_what_another_server_cannot_help_is_asked_once(
    fakes: list[FakeServer], message: str
) -> None:
    for fake in fakes:
        fake.answer = refusing(message)
    with Client([fake.url for fake in fakes]) as client:  # noqa: SIM117
        with pytest.raises((InvalidRequest, ServerError)):
            said(client)
    assert sum(map(asked, fakes)) == 1


def test_a_server_with_another_checkpoint_is_passed_over(
    fakes: list[FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    fakes[0].facts, fakes[1].facts = {"checkpoint_id": "one"}, {"checkpoint_id": "other"}
    with Client([fake.url for fake in fakes], timeout_s=10) as client:
        spoke = {said(client) for _ in range(6)}
        assert len(spoke) == 1
        assert "must serve the same" in caplog.text
        assert "'one'" in caplog.text and "'other'" in caplog.text
        fakes[int(spoke.pop())].__exit__()  # the other is all that is left
        assert len({said(client) for _ in range(3)}) == 1
    assert "which speaks now" in caplog.text


def test_a_server_that_returns_with_another_checkpoint_is_noticed(
    fakes: list[FakeServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "CHECK_S", 0.0)
    for fake in fakes:
        fake.facts = {"checkpoint_id": "one"}
    with Client([fake.url for fake in fakes], timeout_s=10) as client:
        assert {said(client) for _ in range(4)} == {0, 1}
        fakes[0].facts = {"checkpoint_id": "other"}
        assert {said(client) for _ in range(4)} == {1}


def test_facts_are_those_of_the_server_that_is_there_now(fakes: list[FakeServer]) -> None:
    port = int(fakes[0].url.split(":")[1])
    fakes[0].facts = {"letters_per_request": 7}
    with Client(fakes[0].url, timeout_s=10) as client:
        assert client.speech_facts() == SpeechFacts(7)
        fakes[0].__exit__()
        with FakeServer(port) as again:
            again.facts, again.answer = {"letters_per_request": 42}, saying(0)
            time.sleep(0.6)  # a server takes longer to come back
            said(client)
            assert client.speech_facts() == SpeechFacts(42)


def test_a_name_stands_for_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [(2, "10.0.0.1"), (2, "10.0.0.2")]
    monkeypatch.setattr(
        names.socket, "getaddrinfo",
        lambda host, port, type: [(family, 1, 6, "", (ip, port)) for family, ip in found],
    )  # fmt: skip
    pool = servers.Servers([Address("grpc", "speech", 8001)], 0)
    before = pool.all()
    assert [(s.url, s.address.name) for s in before] == [
        ("10.0.0.1:8001", "speech"), ("10.0.0.2:8001", "speech")
    ]  # fmt: skip
    found[:] = [(2, "10.0.0.2"), (2, "10.0.0.3"), (10, "fd00::1")]
    assert pool.all() == before  # until it is time to look again
    monkeypatch.setattr(servers, "RESOLVE_S", 0.0)
    assert [s.url for s in pool.all()] == ["10.0.0.2:8001", "10.0.0.3:8001", "[fd00::1]:8001"]
    assert pool.all()[0] is before[1]
    monkeypatch.setattr(names.socket, "getaddrinfo", raising)
    assert len(pool.all()) == 3  # those that are known stay
    pool.close()


def raising(*_: object, **__: object) -> None:
    raise OSError("no such name")


@pytest.mark.parametrize(
    ("url", "found", "expected"),
    [("speech:1", [(2, "10.0.0.1")], ["speech:1"]),
     ("speech:1", [(2, "10.0.0.1"), (10, "fd00::1")], ["speech:1"]),
     ("dns:///speech:1", [(2, "10.0.0.1")], ["10.0.0.1:1"]),
     ("localhost:1", [(2, "127.0.0.1"), (2, "127.0.0.2")], ["localhost:1"]),
     ("10.1.1.1:1", [(2, "10.0.0.1"), (2, "10.0.0.2")], ["10.1.1.1:1"])],
)  # fmt: skip
def test_a_name_of_one_server_stays_a_name(
    monkeypatch: pytest.MonkeyPatch, url: str, found: list, expected: list[str]
) -> None:
    monkeypatch.setattr(
        names.socket, "getaddrinfo",
        lambda host, port, type: [(family, 1, 6, "", (ip, port)) for family, ip in found],
    )  # fmt: skip
    pool = servers.Servers(addresses_of(url), 0)
    assert [server.url for server in pool.all()] == expected
    pool.close()


def test_a_name_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.socket, "getaddrinfo", raising)
    with Client("dns:///speech:1") as client, pytest.raises(ServerUnavailable, match="no address"):
        said(client)


def test_the_name_is_what_a_server_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[bytes] = []
    real = names.socket.getaddrinfo

    def found(host, port, **more):
        several = [(2, 1, 6, "", (ip, port)) for ip in ("127.0.0.1", "127.0.0.2")]
        return several if host == "speech" else real(host, port, **more)

    with rude(lambda: [], heard) as url:
        monkeypatch.setattr(names.socket, "getaddrinfo", lambda h, p, *a, **k: found(h, p, **k))
        port = url.split(":")[1]
        with Client(f"http://speech:{port}", timeout_s=2) as client:
            assert not client.ready()
    assert f"Host: speech:{port}\r\n".encode() in heard[0]
