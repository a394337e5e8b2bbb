"""The queue that is bounded by time."""

import threading
import time

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from proxy.load import Load, group_of, units_of
from proxy.refusals import Refusal
from support.fake_server import Refusal as Refused
from support.proxied import proxied, text_request

pb = service_pb2


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test turns."""
    now = [100.0]
    monkeypatch.setattr("proxy.load.time.monotonic", lambda: now[0])
    return now


def answer(load: Load, clock, took_s: float, count: int = 1, model="fish_tts_stream") -> None:
    """So many requests side by side, each answered after so many seconds."""
    together = [load.admit(model, 1, None) for _ in range(count)]
    clock[0] += took_s
    for asked in together:
        load.answered(asked)
    for asked in together:
        load.end(asked)


def test_slots_are_given_out_and_the_wait_for_one_is_bounded(clock) -> None:
    load = Load(longest_wait_s=1.0)
    load.slots = 4
    answer(load, clock, 0.8)
    assert load.expected("fish_tts_stream", 1) is None  # nothing is in flight
    for now in (1, 2, 3):
        load.admit("fish_tts_stream", 1, None)
        assert load.expected("fish_tts_stream", 1) == pytest.approx((0.8 + 0.2 * now, 0))
    for waiting in (1, 2, 3):
        load.admit("fish_tts_stream", 1, None)
        expected = 1.6 + 0.4 * waiting, 0.4 * waiting
        assert load.expected("fish_tts_stream", 1) == pytest.approx(expected)
    with pytest.raises(Refusal, match=r"would wait 1\.2 s for a slot, 1 s are allowed") as refused:
        load.admit("fish_tts_stream", 1, None)
    assert refused.value.code.name == "UNAVAILABLE"
    assert str(refused.value).startswith("fish_tts_stream: overloaded: ")
    assert refused.value.trailers == (("retry-after-ms", "300"),)
    assert refused.value.headers == {"Retry-After": "1"}


@pytest.mark.parametrize("took_s", [0.8, 2.0])
def test_what_one_delays_the_others_is_learnt(clock, took_s) -> None:
    load = Load(longest_wait_s=99.0)
    load.slots = 1
    answer(load, clock, 0.8)
    for _ in range(30):
        answer(load, clock, took_s, count=5)  # 1 to 4 before each
    load.admit("fish_tts_stream", 1, None)
    more_s = load.expected("fish_tts_stream", 1)[1] - 0.8
    assert (took_s - 0.8) / 4 <= more_s + 1e-6 <= (took_s - 0.8) + 0.001


def test_longer_texts_may_take_longer(clock) -> None:
    load = Load(longest_wait_s=1.0)
    asked = load.admit("fish_tts", 400, None)
    clock[0] += 4
    load.answered(asked)
    assert load.expected("fish_tts", 40) == pytest.approx((0.5, 0))


def test_a_request_that_could_not_be_in_time_is_refused(clock) -> None:
    load = Load(longest_wait_s=100)
    answer(load, clock, 2.0)
    load.admit("fish_tts_stream", 1, 1.9)  # nothing is in flight: it is tried
    load.admit("fish_tts_stream", 1, 2.6)
    with pytest.raises(Refusal, match=r"would take 3\.0 s .* its caller gives it 2\.9 s"):
        load.admit("fish_tts_stream", 1, 2.9)


def test_before_anything_is_known_the_slots_are_given(clock) -> None:
    load = Load(longest_wait_s=1.0)
    for _ in range(16):
        load.admit("fish_tts", 20, None)
    with pytest.raises(Refusal, match="16 requests are in flight and none of its kind"):
        load.admit("fish_tts_stream", 1, None)
    load.admit("fish_encode", 1000, None)  # another queue
    for _ in range(20):
        load.admit("fish_cancel", 100, None)  # always gets through
    load.slots = 64
    load.admit("fish_tts_stream", 1, None)


def test_what_was_is_forgotten_when_the_load_has_gone(clock) -> None:
    load = Load(longest_wait_s=9.0)
    answer(load, clock, 0.4)
    for _ in range(9):
        answer(load, clock, 2.4, count=2)
    load.admit("fish_tts_stream", 1, None)
    assert load.expected("fish_tts_stream", 1)[0] > 1.5
    clock[0] += 6
    assert load.expected("fish_tts_stream", 1) == pytest.approx((0.5, 0))


def test_sizes() -> None:
    assert group_of("fish_tts") == group_of("fish_clone_stream") != group_of("fish_encode")
    assert units_of("fish_tts_stream", 400, 9000) == 1
    assert units_of("fish_clone", 400, 9000) == 400
    assert units_of("fish_encode", 0, 9000) == 9000


@pytest.mark.slow
def test_a_flood_is_refused_at_once_and_what_is_accepted_is_quick(upstream, upstream_http) -> None:
    """One worker takes 0.1 s a request; 60 come in 1.5 s, four times what it can do."""
    worker = threading.Lock()

    def answer(inputs):
        with worker:
            time.sleep(0.1)
        yield {"audio": np.zeros((1, 3), np.float32)}

    upstream.answer = answer
    request = pb.ModelInferRequest(model_name="fish_tts")
    request.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(b"\1\0\0\0a")
    accepted, refused = [], []

    def ask(stub) -> None:
        begin = time.monotonic()
        try:
            stub.ModelInfer(request)
            accepted.append(time.monotonic() - begin)
        except grpc.RpcError as error:
            assert error.code().name == "UNAVAILABLE" and "overloaded: " in error.details()
            assert int(dict(error.trailing_metadata())["retry-after-ms"]) > 0
            refused.append(time.monotonic() - begin)

    with (
        proxied(server_grpc=upstream.url, server_metrics=upstream_http.url, probe_s=0,
                longest_wait_s=0.4) as door,
        grpc.insecure_channel(door.grpc_url) as channel,
    ):  # fmt: skip
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        ask(stub)
        threads = [threading.Thread(target=ask, args=(stub,)) for _ in range(60)]
        for thread in threads:
            thread.start()
            time.sleep(0.025)
        for thread in threads:
            thread.join()
        ask(stub)  # normal again at once
        late = accepted[len(accepted) // 2 : -1]
        assert 10 <= len(accepted) <= 32 and max(late) < 1.5 and accepted[-1] < 0.5
        assert len(refused) == 62 - len(accepted) and max(refused) < 1
        assert 'refused_total{reason="overloaded"}' in door.metrics()


def test_a_full_stages_own_words_say_when_to_come_again(stub, upstream) -> None:
    def full(said: str) -> grpc.RpcError:
        def answer(_):
            raise Refused(grpc.StatusCode.UNAVAILABLE, said)
            yield

        upstream.answer = answer
        with pytest.raises(grpc.RpcError) as error:
            stub.ModelInfer(text_request())
        assert (error.value.code().name, error.value.details()) == ("UNAVAILABLE", said)
        return error.value

    late = full("fish_llama: overloaded: with 4 in work no further stream ... Try again in 7 s, or")
    assert dict(late.trailing_metadata())["retry-after-ms"] == "7000"
    unsaid = full("fish_llama: overloaded: 256 requests are waiting already. Try again later, or")
    assert "retry-after-ms" not in dict(unsaid.trailing_metadata())
