"""What is sent again, when, and how a script goes on after its server was lost."""

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import numpy as np
import pytest

from gateway.errors import api_error
from support.answers import AWAY, asked, refusing, said, saying
from support.fake_server import FakeServer, Refusal, chunk, inputs_of, whole
from support.rude_server import rude
from voicereel import (
    Cancelled,
    Client,
    Overloaded,
    ServerError,
    ServerUnavailable,
    stream_script,
)
from voicereel.caller import Caller
from voicereel.transport import repeats
from voicereel.transport.address import Address


@pytest.mark.parametrize(("times", "calls"), [(1, 2), (2, 2)])
@pytest.mark.parametrize("how", ["stream", "unary"])
def test_what_something_on_the_way_cancels_is_repeated_once(
    how: str, times: int, calls: int
) -> None:
    """Nothing came, and this client did not ask for it: as with a connection that breaks."""
    asked = []

    def answer(inputs: dict) -> Iterator[dict]:
        asked.append(inputs)
        if len(asked) <= times:
            raise Refusal(grpc.StatusCode.CANCELLED, "")
        yield chunk(0, is_last=True) | whole(np.zeros(64))

    with FakeServer() as fake, Client(fake.url, timeout_s=10) as client:
        fake.answer = answer
        with pytest.raises(Cancelled) if times >= calls else contextlib.nullcontext():
            list(client.stream("a")) if how == "stream" else client.synthesize("a")
    assert len(asked) == calls


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
    assert len(gaps) == 2 and (gaps >= 0.25).all() and (gaps < 5).all()
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
    assert time.monotonic() - begin < 5


def test_a_full_server_is_not_asked_for_ever(full) -> None:
    fake, when = full
    fake.refusals, fake.hint = 99, "50"
    with Client(fake.url, timeout_s=2) as client, pytest.raises(Overloaded):
        said(client)
    pauses = [after - before for before, after in itertools.pairwise(when)]
    assert when[-1] - when[0] < 2 and max(pauses) > 2 * pauses[0]  # they grow


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


def test_a_gateway_tells_its_callers_when_to_ask_again() -> None:
    full = Overloaded("full")
    full.retry_after_s = 2.4
    assert api_error(full).response().headers["Retry-After"] == "3"
    assert api_error(Overloaded("full")).response().headers["Retry-After"] == "1"
