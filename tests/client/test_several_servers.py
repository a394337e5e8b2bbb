"""Several addresses: who is asked, who is passed over, what is repeated, and what is compared."""

import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

from support.fake_server import FakeServer, Refusal, chunk, inputs_of, whole
from support.launched import wait_until
from support.rude_server import rude
from voicereel import (
    Client,
    InvalidRequest,
    Overloaded,
    ServerError,
    ServerUnavailable,
    stream_script,
)
from voicereel.caller import Caller
from voicereel.client import SpeechFacts
from voicereel.transport import names, repeats, servers
from voicereel.transport.address import Address, addresses_of

AWAY = "127.0.0.1:1"


@pytest.fixture
def fakes() -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        found = [stack.enter_context(FakeServer()) for _ in range(2)]
        for number, fake in enumerate(found):
            fake.answer, fake.facts = saying(number), {}
        yield found


def saying(value: float):
    return lambda _: iter([chunk(0, is_last=True) | whole(np.full(64, value))])


def refusing(message: str, status: grpc.StatusCode = grpc.StatusCode.INTERNAL):
    def answer(_: dict) -> Iterator[dict]:
        raise Refusal(status, message)
        yield

    return answer


def said(client: Client) -> float:
    return client.synthesize("Hello.").waveform[0]


def asked(fake: FakeServer) -> int:
    return sum(request.model_name.startswith("fish_tts") for request in fake.requests)


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


def test_a_request_that_ends_servers_does_not_end_all_of_them() -> None:
    ended = []

    def dying() -> list[bytes]:
        ended.append(1)
        return []

    with ExitStack() as stack:
        urls = [stack.enter_context(rude(dying)) for _ in range(4)]
        client = stack.enter_context(Client(urls, "http", timeout_s=5))
        client._transport._checkpoint_id = ""
        for server in client.servers():
            server.checked_until = time.monotonic() + 60
        with pytest.raises(ServerUnavailable):
            client.synthesize("Hello.")
    assert len(ended) == 2


@pytest.fixture
def full() -> Iterator[tuple[FakeServer, list[float]]]:
    class Full(FakeServer):
        def ModelInfer(self, request, context):
            if request.model_name != "fish_tts":
                return super().ModelInfer(request, context)
            when.append(time.monotonic())
            if len(when) <= self.refusals:
                context.set_trailing_metadata((("retry-after-ms", self.hint),))
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many requests")
            return super().ModelInfer(request, context)

    when: list[float] = []
    with Full() as fake:
        fake.answer = saying(0)
        yield fake, when


def test_a_full_server_is_asked_again_when_it_said(full) -> None:
    fake, when = full
    fake.refusals, fake.hint = 2, "250"
    with Client(fake.url, timeout_s=10) as client:
        assert said(client) == 0
    gaps = np.diff(when)
    assert len(gaps) == 2 and (gaps >= 0.25).all() and (gaps < 1).all()
    assert len({request.id for request in fake.requests}) == 1


@pytest.mark.parametrize(
    ("hint", "timeout_s", "return_s", "told"),
    [("60000", 5, 120, 60.0), ("250", 5, 0, 0.25), ("soon", 5, 120, 0.0), ("-1", 5, 120, 0.0),
     ("9" * 5000, 5, 120, 0.0)],
)  # fmt: skip
def test_a_full_server_is_told_at_once_when_waiting_is_not_worth_it(
    full, hint: str, timeout_s: float, return_s: float, told: float
) -> None:
    fake, when = full
    fake.refusals, fake.hint = 99, hint
    begin = time.monotonic()
    with Client(fake.url, timeout_s=timeout_s, return_s=return_s) as client:  # noqa: SIM117
        with pytest.raises(Overloaded) as caught:
            said(client)
    assert (caught.value.retry_after_s, len(when)) == (told, 1)
    assert time.monotonic() - begin < 1


def test_a_full_server_is_not_asked_for_ever(full) -> None:
    fake, when = full
    fake.refusals, fake.hint = 99, "50"
    with Client(fake.url, timeout_s=10) as client, pytest.raises(Overloaded):
        said(client)
    assert len(when) == 4


def test_over_http_the_hint_is_a_header() -> None:
    answer = b"HTTP/1.1 429 No\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    with rude(lambda: [answer]) as url, Client(url, "http", timeout_s=2) as client:  # noqa: SIM117
        with pytest.raises(Overloaded, match="HTTP 429") as caught:
            said(client)
    assert caught.value.retry_after_s == 7


def test_pauses_grow_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(repeats.time, "sleep", pauses.append)
    for _ in range(2):
        call = repeats.Repeats(Address("grpc", "a", 1), 100, 100)
        for _ in range(6):
            call.or_raise(repeats.NoConnection("no", sent=False))
    first, second = pauses[:5], pauses[5:]
    assert first != second
    for number, pause in enumerate(first):
        longest = min(2.0, 0.2 * 2**number)
        assert longest / 2 <= pause <= longest


def test_each_repeat_is_logged_with_the_id_of_the_request(
    fakes: list[FakeServer], caplog: pytest.LogCaptureFixture
) -> None:
    with Client([AWAY, fakes[0].url], timeout_s=10) as client, Caller("req-7").active():  # noqa: SIM117
        with caplog.at_level(logging.INFO, "voicereel"):
            assert {said(client), said(client)} == {0}
    assert {request.id for request in fakes[0].requests} == {"req-7"}
    assert "request req-7 is sent again: 127.0.0.1:1: failed to connect" in caplog.text


def test_a_repeat_has_the_id_and_the_inputs_of_the_first(fakes: list[FakeServer]) -> None:
    fakes[0].answer = fakes[1].answer = refusing("Server not ready", grpc.StatusCode.UNAVAILABLE)
    with Client([fake.url for fake in fakes], return_s=0) as client:  # noqa: SIM117
        with pytest.raises(ServerUnavailable):
            client.synthesize("Hello.", seed=3)
    first, second = (fake.requests[0] for fake in fakes)
    assert first.id == second.id
    assert list(first.raw_input_contents) == list(second.raw_input_contents)


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


def speaking(pieces: list[np.ndarray], lost_after: int | None = None):
    """Speak in chunks; the connection breaks after so many of them."""

    def answer(_: dict) -> Iterator[dict]:
        for index, piece in enumerate(pieces):
            if index == lost_after:
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "Stub process 'x' is not healthy.")
            made = chunk(index, samples=len(piece), is_last=index == len(pieces) - 1)
            made["audio"][:, : len(piece)] = piece
            yield made

    return answer


SPEECH = np.linspace(-0.5, 0.5, 60, dtype=np.float32)
ONE = [{"speaker_id": "A", "text": "Hello."}]


def heard(client: Client) -> np.ndarray:
    pieces = stream_script(client, ONE, {"A": None})
    return np.concatenate([piece.waveform for piece in pieces])


@pytest.mark.parametrize("lost_after", [1, 2])
def test_a_script_goes_on_where_its_audio_ended(fakes: list[FakeServer], lost_after: int) -> None:
    fakes[0].answer = speaking(np.split(SPEECH, 3), lost_after)
    fakes[1].answer = speaking(np.split(SPEECH, 4))  # in chunks of another length
    with Client([fake.url for fake in fakes], timeout_s=10) as client:
        found = [heard(client) for _ in range(3)]
    assert asked(fakes[0]) and asked(fakes[1])
    for audio in found:
        np.testing.assert_array_equal(audio, SPEECH)
    sent = [r for fake in fakes for r in fake.requests if r.model_name == "fish_tts_stream"]
    seeds = [inputs_of(request)["seed"].item() for request in sent]
    assert len(set(seeds)) == 3 < len(seeds)  # one for each script, and the same again


@pytest.mark.parametrize("other", [SPEECH + 0.001, SPEECH[:10], np.roll(SPEECH, 1)])
def test_other_audio_is_no_continuation(fakes: list[FakeServer], other: np.ndarray) -> None:
    fakes[0].answer = speaking(np.split(SPEECH, 3), 2)
    fakes[1].answer = speaking([other])
    with Client([fake.url for fake in fakes], timeout_s=10) as client:  # noqa: SIM117
        with pytest.raises(ServerError, match="speaks differently"):
            for _ in range(2):
                heard(client)


def test_a_script_that_ends_servers_ends(fakes: list[FakeServer]) -> None:
    for fake in fakes:
        fake.answer = speaking(np.split(SPEECH, 3), 2)
    with Client([fake.url for fake in fakes], timeout_s=10) as client:  # noqa: SIM117
        with pytest.raises(ServerUnavailable, match=r"segment 1 of 1 .*not healthy"):
            heard(client)
    assert sum(map(asked, fakes)) == 3


def test_a_stream_that_has_begun_is_not_sent_again(fakes: list[FakeServer]) -> None:
    for fake in fakes:
        fake.answer = speaking(np.split(SPEECH, 3), 2)
    with Client([fake.url for fake in fakes], timeout_s=10) as client:  # noqa: SIM117
        with pytest.raises(ServerUnavailable):
            list(client.stream("Hello."))
    assert sum(map(asked, fakes)) == 1
