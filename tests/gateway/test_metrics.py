"""Metrics and accounts: what a listener heard."""

import grpc
import pytest

from gateway.account import Account
from gateway.metrics import Metrics
from support.fake_server import FakeServer, Refusal
from support.gateway import Gateway


class Clock:
    """Time as the test sets it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def read(gateway: Gateway) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = gateway.http.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in
            (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}  # fmt: skip


def test_the_listener_waits_when_audio_comes_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("gateway.account.time", clock)
    account = Account("id", "speech", "tts-1", "mp3", Metrics())
    for after, audio_s, underrun_s in [
        (0.5, 1.0, 0.0),  # the first second
        (0.8, 2.0, 0.0),  # in time
        (1.2, 2.5, 0.0),  # played out at 0.5 + 2 = 2.5 s; this comes at that moment
        (1.5, 3.0, 1.0),  # the audio ended at 3.0 s, this comes at 4.0 s
        (0.5, 4.0, 1.0),  # played out at 4.5 s
    ]:
        clock.now += after
        account.arrived(audio_s)
        assert account.listener.underrun_s == pytest.approx(underrun_s)
    assert account.first_s == pytest.approx(0.5)


def test_requests_are_counted_by_door_model_and_format(gateway: Gateway, fake: FakeServer) -> None:
    labels = '{door="speech",format="opus",model="tts-1-hd"}'
    before = read(gateway)
    assert gateway.speak(model="tts-1-hd", response_format="opus").status_code == 200
    now = read(gateway)

    def grown(name: str, labels: str = labels) -> float:
        key = f"voicereel_gateway_{name}{labels}"
        return now.get(key, 0) - before.get(key, 0)

    assert grown("first_audio_seconds_count") == grown("real_time_factor_count") == 1
    assert grown("underrun_seconds_count") == 1
    assert grown("audio_seconds_total") == pytest.approx(1.0, abs=0.01)
    done = '{door="speech",format="opus",model="tts-1-hd",outcome="done"}'
    assert grown("requests_total", done) == 1
    assert now["voicereel_gateway_in_flight"] == 0
    assert now[f'voicereel_gateway_server_in_flight{{server="{fake.url}"}}'] == 0


def test_refusals_are_counted_by_code(gateway: Gateway, fake: FakeServer) -> None:
    before = read(gateway)
    assert gateway.speak(voice="nobody").status_code == 404
    assert gateway.speak(speed=0).status_code == 422

    def overloaded(_: dict):
        raise Refusal(grpc.StatusCode.INTERNAL, "fish_llama: overloaded: full")
        yield

    fake.answer = overloaded
    assert gateway.speak().status_code == 429
    now = read(gateway)
    for code in ("voice_not_found", "invalid_value", "too_many_requests"):
        key = f'voicereel_gateway_refused_total{{code="{code}"}}'
        assert now[key] - before.get(key, 0) == 1
