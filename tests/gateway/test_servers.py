"""Several servers: the least busy one speaks, and one that cannot is passed over."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest

from gateway.servers import Servers
from support.fake_server import FakeServer, Refusal
from support.gateway import chunks, running, tone
from support.launched import wait_until
from voicereel import InvalidRequest, ServerError, ServerUnavailable
from voicereel.transport import names
from voicereel.transport import servers as module
from voicereel.transport.address import addresses_of


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeServer()) for _ in range(3)]


def saying(value: float):
    return lambda _: chunks(np.full(4410, value, np.float32))


def refusing(message: str):
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(grpc.StatusCode.INTERNAL, message)
        yield

    return answer


def asked(fake: FakeServer) -> int:
    """How often the server was asked to speak."""
    return sum(request.model_name == "fish_tts_stream" for request in fake.requests)


def said(servers: Servers) -> float:
    return next(servers.stream(lambda client: client.stream("Hello."))).waveform[0]


@pytest.mark.parametrize(
    "message", ["fish_llama: overloaded: the queue is full",
                "Request for unknown model: 'fish_tts_stream' is not found"],
)  # fmt: skip
def test_a_server_that_refuses_is_passed_over(fakes: list[FakeServer], message: str) -> None:
    first, second, third = fakes
    first.answer = third.answer = refusing(message)
    second.answer = saying(0.5)
    servers = Servers([fake.url for fake in fakes], timeout_s=10)
    assert {said(servers) for _ in range(3)} == {0.5}
    servers.close()


def test_a_server_that_is_away_is_passed_over_and_shunned(fakes: list[FakeServer]) -> None:
    fakes[0].answer = saying(0.5)
    servers = Servers(["127.0.0.1:1", fakes[0].url], timeout_s=10)
    assert {said(servers) for _ in range(4)} == {0.5}
    away = next(server for server in servers.all() if server.url.endswith(":1"))
    assert away.shunned_until > 0
    assert servers.any_ready()
    servers.close()


def test_a_server_that_spoke_and_died_is_passed_over_at_once(fakes: list[FakeServer]) -> None:
    """A client by itself would wait for it to come back."""
    fakes[0].answer, fakes[1].answer = saying(0.25), saying(0.5)
    servers = Servers([fake.url for fake in fakes[:2]], timeout_s=10)
    assert {said(servers) for _ in range(2)} == {0.25, 0.5}
    fakes[0].__exit__()
    begin = time.monotonic()
    assert {said(servers) for _ in range(3)} == {0.5}
    assert time.monotonic() - begin < 5  # of the 10 that a call has
    servers.close()


def test_the_error_of_the_last_is_told_when_all_refuse(fakes: list[FakeServer]) -> None:
    for fake in fakes:
        fake.answer = refusing("Request for unknown model: x")
    servers = Servers([fake.url for fake in fakes], timeout_s=10)
    with pytest.raises(ServerUnavailable):
        said(servers)
    assert [asked(fake) for fake in fakes] == [1, 1, 1]
    servers.close()


@pytest.mark.parametrize(
    ("message", "error"),
    [("fish_llama: invalid request: no", InvalidRequest), ("fish_llama: boom", ServerError)],
)
def test_what_is_wrong_with_the_request_is_asked_once(
    fakes: list[FakeServer], message: str, error: type[Exception]
) -> None:
    for fake in fakes:
        fake.answer = refusing(message)
    servers = Servers([fake.url for fake in fakes], timeout_s=10)
    with pytest.raises(error):
        said(servers)
    assert sum(asked(fake) for fake in fakes) == 1
    servers.close()


def test_the_least_busy_server_speaks(fakes: list[FakeServer]) -> None:
    resume = threading.Event()

    def slow(_: dict) -> Iterator[dict]:
        yield from chunks(tone(0.1), tone(0.1))
        resume.wait(10)

    for fake in fakes:
        fake.answer = saying(0.5)
        fake.facts = {"checkpoint_id": "one"}
    servers = Servers([fake.url for fake in fakes], timeout_s=10)
    said(servers)  # asks what the checkpoint is, which is kept
    for fake in fakes:
        fake.answer = slow
        fake.requests.clear()
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(lambda: list(servers.stream(lambda c: c.stream("Hello."))))
                for _ in range(6)]  # fmt: skip
        wait_until(lambda: sum(asked(fake) for fake in fakes) == 6)
        assert [asked(fake) for fake in fakes] == [2, 2, 2]
        resume.set()
        [each.result() for each in done]
    assert [server.in_flight for server in servers.all()] == [0, 0, 0]
    servers.close()


def test_calls_that_begin_together_are_spread(fakes: list[FakeServer], monkeypatch) -> None:
    """Before any of them has left: each first asks its server which checkpoint it has."""
    for fake in fakes:
        fake.answer = saying(0.5)
    servers = module.Servers(addresses_of([fake.url for fake in fakes]), 0)
    in_flight = []
    every = threading.Barrier(4, lambda: in_flight.extend(s.in_flight for s in servers.all()))
    monkeypatch.setattr(module.Server, "told_checkpoint_id", lambda *_: str(every.wait(10) and ""))
    first = servers.all()[0]
    with first.busy(), first.busy(), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: servers.infer("fish_encode", {}, 10), range(4)))
    assert in_flight == [2, 2, 2]
    servers.close()


def test_after_the_first_audio_no_other_server_goes_on(fakes: list[FakeServer]) -> None:
    def breaking(_: dict) -> Iterator[dict]:
        yield next(chunks(tone(0.1), tone(0.1)))
        raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: overloaded: now")

    for fake in fakes:
        fake.answer = breaking
    servers = Servers([fake.url for fake in fakes], timeout_s=10)
    stream = servers.stream(lambda client: client.stream("Hello."))
    next(stream)
    with pytest.raises(Exception, match="overloaded"):
        next(stream)
    assert sum(asked(fake) for fake in fakes) == 1
    servers.close()


def test_a_name_stands_for_all_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ["10.0.0.1", "10.0.0.2"]
    monkeypatch.setattr(
        names.socket, "getaddrinfo",
        lambda host, port, type: [
            (2, 1, 6, "", (ip, port)) for ip in (found if host == "triton.svc" else ["10.1.1.1"])
        ],
    )  # fmt: skip
    servers = Servers(["dns:///triton.svc:8001", "other:1"], timeout_s=10)
    before = servers.all()
    assert [s.url for s in before] == ["10.0.0.1:8001", "10.0.0.2:8001", "other:1"]
    found[:] = ["10.0.0.2", "10.0.0.3"]
    assert servers.all() == before  # until it is time to look again
    monkeypatch.setattr(module, "RESOLVE_S", 0.0)
    after = servers.all()
    assert [s.url for s in after] == ["10.0.0.2:8001", "10.0.0.3:8001", "other:1"]
    assert after[0] is before[1]
    servers.close()


def test_the_addresses_of_a_name_change_while_the_gateway_speaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As in a rolling restart: what is new goes to the new pod, and what had begun ends whole."""
    found, look_up = ["127.0.0.1"], names.socket.getaddrinfo
    monkeypatch.setattr(
        names.socket, "getaddrinfo",
        lambda host, *how, **more: look_up(
            found[0] if host == "triton.svc" else host, *how, **more
        ),
    )  # fmt: skip
    monkeypatch.setattr(module, "RESOLVE_S", 0.2)
    begun, go_on = threading.Event(), threading.Event()

    def slowly(_: dict) -> Iterator[dict]:
        pieces = list(chunks(*[tone(0.1)] * 3))
        yield pieces[0]
        begun.set()
        assert go_on.wait(30)
        yield from pieces[1:]

    with FakeServer() as old, ThreadPoolExecutor() as pool:
        port = old.url.rpartition(":")[2]
        with (
            FakeServer(int(port), host="127.0.0.2") as new,
            running(f"dns:///triton.svc:{port}", tmp_path) as gateway,
        ):
            old.answer, new.answer = slowly, saying(0.5)
            how = {"response_format": "pcm", "sample_rate": 44_100}
            spoken = pool.submit(gateway.speak, **how)
            assert begun.wait(30)
            found[0] = "127.0.0.2"
            time.sleep(0.3)
            assert [gateway.speak(**how).status_code for _ in range(3)] == [200] * 3
            assert (asked(old), asked(new)) == (1, 3)
            go_on.set()
            answer = spoken.result(30)
            assert (answer.status_code, len(answer.content)) == (200, 2 * 3 * 4410)


def test_a_name_without_an_address_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no such name")

    monkeypatch.setattr(names.socket, "getaddrinfo", fail)
    servers = Servers(["dns:///none:1"], timeout_s=1)
    assert not servers.any_ready()
    with pytest.raises(ServerUnavailable, match="no address"):
        said(servers)


def test_the_gateway_is_ready_while_one_server_is(fakes: list[FakeServer], tmp_path: Path) -> None:
    fakes[0].not_ready.add("fish_tts")
    with running(f"{fakes[0].url},{fakes[1].url}", tmp_path) as gateway:
        assert gateway.http.get("/health/ready").status_code == 200
        fakes[1].not_ready.add("fish_tts_stream")
        assert gateway.http.get("/health/ready").status_code == 503
