"""The chunk schedule: every frame once, in order, with the history the decoder needs."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import windows
from engine.windows import LAST_GRAIN, Schedule
from ensemble.contract import LONGEST_CHUNK


@given(
    frames=st.integers(1, 400),
    first=st.integers(1, 40),
    largest=st.integers(1, 80),
    history=st.integers(0, 60),
)
def test_every_frame_once_with_its_history(frames, first, largest, history) -> None:
    codes = np.arange(2 * frames).reshape(frames, 2) + 1
    schedule, found = Schedule(first, largest, history), []
    for count in range(1, frames + 1):
        if schedule.due(count) and count < frames:
            found.append(schedule.cut(codes[:count]))
    found.append(schedule.cut(codes, "stop"))
    heard = 0
    for index, window in enumerate(found):
        new, valid = len(window.new_frames), window.num_frames
        past = window.codes.shape[1] - new
        assert window.index == index
        assert window.new_frames.tolist() == [
            *range(heard, heard + valid),
            *[-1] * (new - valid),
        ]
        assert past == min(heard, history)
        np.testing.assert_array_equal(
            window.codes[:, : past + valid], codes[heard - past : heard + valid].T
        )
        assert not window.codes[:, past + valid :].any()
        assert (window.finish_reason == "stop") == (index == len(found) - 1)
        heard += valid
    assert heard == frames


@pytest.mark.parametrize(
    ("frame_ms", "sizes"),
    [
        (10, [8, 8, 16, 32, 64, 64]),  # far ahead of who plays it
        (42, [8, 8, 8, 8, 8, 8, 8, 8]),  # hardly: he would have to wait for a longer one
        (30, [8, 8, 8, 16, 16, 32, 32, 32]),  # ahead further and further
        (60, [8, 8, 16, 32, 64, 64]),  # he has to wait in any case
    ],
)
def test_without_a_maximum_chunks_grow_where_playing_allows_it(
    frame_ms, sizes, monkeypatch
) -> None:
    monkeypatch.setattr(windows, "time", clock := SimpleNamespace(now=0.0))
    clock.perf_counter = lambda: clock.now
    schedule, found = Schedule(8, 0, 1000, frame_s=2048 / 44100), []
    for count in range(1, 1000):
        clock.now += frame_ms / 1000
        if schedule.due(count):
            found.append(len(schedule.cut(np.zeros((count, 10), np.int64)).new_frames))
    assert found[: len(sizes)] == sizes
    assert max(found) <= LONGEST_CHUNK


def test_sizes_grow_and_the_last_is_padded_a_little() -> None:
    codes = np.zeros((200, 10), np.int64)
    schedule = Schedule(8, 64, 1000)
    sizes = [len(schedule.cut(codes).new_frames) for _ in range(4)]
    assert sizes == [8, 16, 32, 64]
    last = schedule.cut(codes[:123], "stop")
    assert (last.num_frames, len(last.new_frames)) == (3, LAST_GRAIN)
