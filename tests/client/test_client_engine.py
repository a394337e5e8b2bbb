"""VoiceReel's engine as documented: one per process, timed, logged."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from support.fake_server import FakeServer, inputs_of, whole
from voicereel import InvalidRequest, fish_speech_optimized
from voicereel import settings as settings_module
from voicereel.errors import ConfigurationError
from voicereel.fish_speech_optimized import get_optimized_engine
from voicereel.performance_optimizer import PerformanceMonitor, meets_target

SCRIPT = [{"speaker_id": "A", "text": "one"}, {"speaker_id": "B", "text": "two"}]
CODES = np.arange(10 * 32).reshape(1, 10, 32)


def encoded(frames: int) -> dict[str, np.ndarray]:
    return {
        "codes": CODES,
        "reference_frames": np.array([[frames]], np.int32),
        "checkpoint_id": np.array([[b"abc"]], np.object_),
    }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.answer = lambda _: iter([whole(np.zeros(22_050))])
        monkeypatch.setenv("VOICEREEL_URL", server.url)
        settings_module.settings.cache_clear()
        fish_speech_optimized._engines.clear()
        yield server
    settings_module.settings.cache_clear()
    fish_speech_optimized._engines.clear()


def test_one_engine_for_a_process(fake: FakeServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        engines = list(pool.map(lambda _: get_optimized_engine(), range(32)))
    assert len(set(map(id, engines))) == 1
    assert get_optimized_engine(fake.url) is engines[0]
    assert get_optimized_engine("127.0.0.1:1") is not engines[0]


def test_a_script_as_documented(fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = get_optimized_engine()
    audio, captions = engine.synthesize_speech_optimized(
        script=SCRIPT, speaker_features={"A": None, "B": None}, use_parallel=True
    )
    assert captions == [
        {"start": 0.0, "end": 0.5, "speaker": "A", "text": "one"},
        {"start": 0.5, "end": 1.0, "speaker": "B", "text": "two"},
    ]
    assert np.asarray(audio).dtype == np.float32
    pattern = r"Synthesis complete: 1\.0s audio in \d+\.\ds \(RTF: \d\.\d\d\)"
    assert re.fullmatch(pattern, caplog.messages[0])
    assert len(caplog.messages) == 1, "a second of audio meets no target"
    assert engine.monitor.stages["synthesis"].calls == 1


def test_a_fast_long_script_meets_the_target(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake.answer = lambda _: iter([whole(np.zeros(44_100 * 15))])
    get_optimized_engine().synthesize_speech_optimized(SCRIPT, {"A": None, "B": None})
    assert caplog.messages[-1] == "Performance target achieved: 30s audio in ≤8s!"


@pytest.mark.parametrize(
    ("audio_s", "wall_s", "expected"),
    [(30, 8, True), (30, 8.01, False), (60, 16, True), (15, 4, True), (14, 0.1, False)],
)
def test_the_target_is_a_rate(audio_s: float, wall_s: float, expected: bool) -> None:
    assert meets_target(audio_s, wall_s) == expected


def test_workers_and_parallel(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    flying, most, lock = [0], [0], threading.Lock()

    def slow(_: dict) -> Iterator[dict]:
        with lock:
            flying[0] += 1
            most[0] = max(most[0], flying[0])
        time.sleep(0.03)
        with lock:
            flying[0] -= 1
        yield whole(np.zeros(10))

    fake.answer = slow

    def most_at_once(use_parallel: bool) -> int:
        settings_module.settings.cache_clear()
        fish_speech_optimized._engines.clear()
        most[0] = 0
        engine = get_optimized_engine()
        engine.synthesize_speech_optimized(SCRIPT * 4, {"A": None, "B": None}, use_parallel)
        return most[0]

    assert (most_at_once(True), most_at_once(False)) == (4, 1)
    monkeypatch.setenv("VOICEREEL_MAX_WORKERS", "6")
    assert most_at_once(True) == 6
    monkeypatch.setenv("VOICEREEL_PARALLEL_SYNTHESIS", "false")
    assert most_at_once(True) == 1


def test_warm_up(fake: FakeServer) -> None:
    get_optimized_engine()._warmup_models()
    assert [inputs_of(r)["max_new_tokens"].item() for r in fake.requests] == [8] * 4


def test_features_of_one_and_of_several_recordings(fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(44_100), 44_100)
    fake.answer = lambda _: iter([encoded(22)])
    engine = get_optimized_engine()
    one = engine.extract_speaker_features_fast(
        audio_path=path, reference_text="hello", use_chunking=True, chunk_size=10
    )
    np.testing.assert_array_equal(one.codes, CODES[0, :, :22])
    engine.extract_speaker_features_fast(path, "hello", use_chunking=False, chunk_size=7)
    sizes = [inputs_of(request)["chunk_size_s"].item() for request in fake.requests]
    assert sizes == [10, np.inf]
    two = engine.extract_speaker_features_fast([path, str(path)], ["hello", "again"])
    assert (two.frames, two.texts) == ((22, 22), ("hello", "again"))
    np.testing.assert_array_equal(two.split_codes()[1], one.codes)
    with pytest.raises(InvalidRequest, match="2 recordings and 1 texts"):
        engine.extract_speaker_features_fast([path, path], "hello")
    for size in (0, -1, np.nan):
        with pytest.raises(InvalidRequest, match=f"chunk_size is {size}, expected seconds above"):
            engine.extract_speaker_features_fast(path, "hello", chunk_size=size)


def test_a_wrong_variable_is_said_at_once(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOICEREEL_USE_OPTIMIZED", "perhaps")
    with pytest.raises(ConfigurationError, match="VOICEREEL_USE_OPTIMIZED is 'perhaps'"):
        get_optimized_engine()


def test_monitor(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor = PerformanceMonitor()
    monitor.start_timer("speak")
    monitor.start_timer("encode")
    assert 0 <= monitor.end_timer("encode") <= monitor.end_timer("speak")
    with monitor.timed("speak"):
        time.sleep(0.01)
    with pytest.raises(ValueError, match="'encode' was not begun"):
        monitor.end_timer("encode")
    stage = monitor.stages["speak"]
    assert (stage.calls, stage.mean_s) == (2, pytest.approx(stage.total_s / 2))
    assert 0.01 <= stage.longest_s <= stage.total_s
    monitor.log_summary()
    assert [line.split()[0] for line in caplog.messages] == ["stage", "encode", "speak"]
    assert f"{stage.total_s:.3f}" in caplog.messages[2].split()


def test_stages_of_several_threads_do_not_mix() -> None:
    monitor = PerformanceMonitor()

    def stage(_: int) -> None:
        with monitor.timed("same"):
            time.sleep(0.01)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(stage, range(16)))
    assert monitor.stages["same"].calls == 16
    assert monitor.stages["same"].total_s >= 0.16
