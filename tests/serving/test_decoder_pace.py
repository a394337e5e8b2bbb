"""The LLaMA stage learns from Triton's statistics how long its decoder takes."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from engine.schedule.outbox import Outbox
from engine.schedule.real_time import RealTime
from ensemble.serving import decoder_pace
from ensemble.serving.decoder_pace import Counters, DecoderPace, frame_s, watch_decoder
from support.launched import wait_until

pytestmark = pytest.mark.torch  # of the scheduler's module


def test_seconds_for_a_frame() -> None:
    before = Counters(0.0, 1.0, 10, 100, 12)
    now = Counters(0.0, 3.0, 20, 260, 22)  # 10 windows of 16 frames in 2 s
    assert frame_s(before, now, 1, 1) == pytest.approx(2 / 160)
    assert frame_s(before, now, 1, 2) == pytest.approx(1 / 160)  # two work side by side
    assert frame_s(before, now, 4, 2) == pytest.approx(4 / 160)  # for four stages
    # A backlog: twice as many windows were cut as decoded. What was decoded counts.
    assert frame_s(before, Counters(0.0, 3.0, 15, 260, 22), 1, 1) == pytest.approx(2 / 80)
    assert frame_s(before, Counters(0.0, 3.0, 13, 260, 22), 1, 1) == 0
    assert frame_s(before, Counters(0.0, 3.0, 20, 100, 12), 1, 1) == 0


class Server:
    """Triton's statistics: a second of work in two sizes of batches, and 8 windows, a look."""

    looks = waited_ns = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def get_inference_statistics(self, model: str, client_timeout: float) -> Any:
        Server.looks += 1
        batches = [
            SimpleNamespace(compute_infer=SimpleNamespace(ns=Server.looks * ns))
            for ns in (250_000_000, 750_000_000)
        ]
        queue = SimpleNamespace(ns=Server.waited_ns)
        model_stats = SimpleNamespace(
            batch_stats=batches, inference_count=8 * Server.looks,
            inference_stats=SimpleNamespace(queue=queue),
        )  # fmt: skip
        return SimpleNamespace(model_stats=[model_stats])

    def get_model_config(self, model: str, client_timeout: float) -> Any:
        gpus = [0, 1] if model == "fish_llama" else []
        group = SimpleNamespace(count=1, gpus=gpus)
        return SimpleNamespace(config=SimpleNamespace(instance_group=[group]))


@pytest.fixture
def scheduler(monkeypatch) -> Any:
    monkeypatch.setattr(decoder_pace, "InferenceServerClient", Server)
    monkeypatch.setattr(decoder_pace, "LOOK_S", 0.001)
    monkeypatch.setenv("VOICEREEL_GRPC_URL", "here:1")
    stepper = SimpleNamespace(frames=0, windows=0)
    return SimpleNamespace(
        stepper=stepper, busy=lambda: True, real_time=RealTime(0.048), outbox=Outbox(0.048)
    )


def test_looks_are_compared_while_there_is_work(scheduler) -> None:
    told: list[float] = []
    scheduler.real_time = SimpleNamespace(decoded=told.append)
    pace = DecoderPace(scheduler)
    pace.look()
    assert told == []
    scheduler.stepper.frames, scheduler.stepper.windows = 128, 8
    pace.look()
    assert told == [pytest.approx(2 * 1.0 / 128)]  # of two stages
    scheduler.busy = lambda: False
    pace.look()
    scheduler.busy = lambda: True
    scheduler.stepper.frames, scheduler.stepper.windows = 256, 16
    pace.look()
    assert len(told) == 1  # the first after a pause has nothing to be compared with


def test_a_server_that_does_not_answer_is_told_of_once(scheduler, monkeypatch) -> None:
    said, heard = [], threading.Event()

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no port")

    monkeypatch.setattr(Server, "get_model_config", fails)

    def warn(line: str) -> None:
        said.append(line)
        heard.set()

    watch_decoder(scheduler, warn)
    assert heard.wait(5)
    looks = Server.looks
    monkeypatch.undo()  # the server is back
    monkeypatch.setattr(decoder_pace, "LOOK_S", 0.001)
    monkeypatch.setattr(decoder_pace, "InferenceServerClient", Server)
    monkeypatch.setenv("VOICEREEL_GRPC_URL", "here:1")
    wait_until(lambda: Server.looks > looks)
    assert said == ["fish_llama: how long fish_decoder takes is not known: no port"]
    scheduler.busy = lambda: False


def test_the_backlog_is_told_what_was_decoded(scheduler, monkeypatch) -> None:
    looks: list[tuple[int, bool, float]] = []
    scheduler.real_time = None  # all streams are admitted: the windows' order still needs it
    scheduler.outbox.backlog = SimpleNamespace(
        looked=lambda *look: looks.append(look), seconds=lambda: 0.0
    )
    monkeypatch.setattr(Server, "looks", 0)
    pace = DecoderPace(scheduler)
    pace.look()
    monkeypatch.setattr(Server, "waited_ns", 1_000_000_000)
    scheduler.stepper.frames, scheduler.stepper.windows = 128, 8
    pace.look()
    pace.look()  # what was decoded since then has not waited
    pace_s = pytest.approx(2 * 1.0 / 128)
    assert looks == [(4, False, 0.0), (8, False, pace_s), (12, True, 0.0)]
