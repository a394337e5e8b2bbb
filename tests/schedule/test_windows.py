"""The chunk schedule: every frame once, in order, with the history the decoder needs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.schedule import chunk_schedule as windows
from engine.schedule.chunk_schedule import LAST_GRAIN, Schedule, Window, alike, share
from ensemble.contract.options import LONGEST_CHUNK
from support.facts import FACTS as SOME

FACTS = replace(SOME, history_frames=100)


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


@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=20),
    late=st.integers(0, 40),
    most=st.integers(0, 1),
)
def test_in_company_windows_come_together_in_one_shape(lengths, late, most) -> None:
    """Requests that begin at different steps: every frame once, and all but the first alike."""
    begins = [late * i % 53 for i in range(len(lengths))]
    schedules = [Schedule(8, 64 * most, 100, frame_s=1.0) for _ in lengths]
    heard = [0] * len(lengths)
    for step in range(1, 300):
        running = [i for i, b in enumerate(begins) if b < step <= b + lengths[i]]
        due, owners = [], []
        for i in running:
            count = step - begins[i]
            frames = np.arange(1, count + 1)[:, None].repeat(2, 1)
            if count == lengths[i]:
                due.append(schedules[i].cut(frames, "stop"))
            elif schedules[i].due(count, step, len(running)):
                due.append(schedules[i].cut(frames))
            else:
                continue
            owners.append(i)
        longest = max((step - begins[i] for i in running), default=1)
        company = max(1, len(running))
        found = alike(due, longest, company, FACTS)
        for i, window in zip(owners, found, strict=True):
            numbers = window.new_frames[window.new_frames >= 0]
            assert numbers.tolist() == list(range(heard[i], heard[i] + window.num_frames))
            known = min(heard[i], 100)
            frames = window.codes[0, window.history - known :][: known + window.num_frames]
            assert frames.tolist() == [*range(heard[i] - known + 1, heard[i] + len(numbers) + 1)]
            heard[i] += window.num_frames
        shapes = {w.codes.shape for w in found if w.index}
        if company > 1:
            assert len(shapes) <= 1
            assert all(len(w.new_frames) >= share(company) for w in found if w.index)
    assert heard == lengths


def test_only_windows_that_share_a_batch_are_padded() -> None:
    window = Window(np.ones((2, 9), np.int64), np.arange(8, 9), 1, 1)
    assert alike([window], 9, 1, FACTS) == [window]
    (padded,) = alike([window], 9, 5, FACTS)
    assert (padded.history, len(padded.new_frames)) == (16, share(5))


def test_sizes_grow_and_the_last_is_padded_a_little() -> None:
    codes = np.zeros((200, 10), np.int64)
    schedule = Schedule(8, 64, 1000)
    sizes = [len(schedule.cut(codes).new_frames) for _ in range(4)]
    assert sizes == [8, 16, 32, 64]
    last = schedule.cut(codes[:123], "stop")
    assert (last.num_frames, len(last.new_frames)) == (3, LAST_GRAIN)
