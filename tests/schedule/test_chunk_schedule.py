"""The chunk schedule: every frame once, in order, with the history the decoder needs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.schedule import chunk_schedule, pacing
from engine.schedule.chunk_schedule import (
    LAST_GRAIN,
    ChunkSchedule,
    frames_in_batch,
    of_equal_shape,
)
from ensemble.contract.options import LONGEST_CHUNK
from ensemble.contract.window import Window
from support.facts import FACTS as SOME

FACTS = replace(SOME, history_frames=100)
FRAME_MS = 2048 / 44.1  # of audio, at 44.1 kHz


@given(
    frames=st.integers(1, 400),
    first=st.integers(1, 40),
    largest=st.integers(1, 80),
    history=st.integers(0, 60),
)
def test_every_frame_once_with_its_history(frames, first, largest, history) -> None:
    codes = np.arange(2 * frames).reshape(frames, 2) + 1
    schedule, found = ChunkSchedule(first, largest, history), []
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


def sizes(monkeypatch, frame_ms, batch_size=1, first=8, largest=0) -> list[int]:
    """Frames of the chunks of a speech of 1,000, one frame every so many milliseconds."""
    monkeypatch.setattr(pacing, "time", clock := SimpleNamespace(now=0.0))
    clock.perf_counter = lambda: clock.now
    schedule, found = ChunkSchedule(first, largest, 1000, frame_s=FRAME_MS / 1000), []
    for count in range(1, 1000):
        clock.now += frame_ms / 1000
        if schedule.due(count, count, batch_size):
            found.append(len(schedule.cut(np.zeros((count, 10), np.int64)).new_frames))
    return found


@pytest.mark.parametrize(
    ("frame_ms", "expected"),
    [
        (10, [8, 8, 16, 32, 64, 64]),  # far ahead of the listener
        (42, [8, 8, 8, 8, 8, 8, 8, 8]),  # hardly ahead: the listener would wait for a longer one
        (30, [8, 8, 8, 16, 16, 32, 32, 32]),  # ahead further and further
        (60, [8, 8, 16, 32, 64, 64]),  # the listener waits in any case
    ],
)
def test_without_a_maximum_chunks_grow_where_playing_allows_it(
    frame_ms, expected, monkeypatch
) -> None:
    found = sizes(monkeypatch, frame_ms)
    assert found[: len(expected)] == expected
    assert max(found) <= LONGEST_CHUNK


@pytest.mark.parametrize(
    ("row", "speed", "options"),
    [
        ("one, generated at 4.6 times", 4.6, {}),
        ("one, at 1.5 times", 1.5, {}),
        ("one, at 1.1 times", 1.1, {}),
        ("one, slower than real time", 0.8, {}),
        ("one of two in a batch", 4.6, {"batch_size": 2}),
        ("one of three or more", 4.6, {"batch_size": 3}),
        ("one of three or more", 4.6, {"batch_size": 16}),
        ("any, with `max_chunk_frames=32`", 1.1, {"largest": 32}),
        ("any, with `max_chunk_frames=32`", 4.6, {"largest": 32, "batch_size": 3}),
        ("any, with `first_chunk_frames=4", 4.6, {"first": 4, "largest": 4}),
    ],
)
def test_the_table_is_what_a_listener_gets(row, speed, options, monkeypatch) -> None:
    (line,) = (s for s in (chunk_schedule.__doc__ or "").splitlines() if s.startswith(f"| {row}"))
    said = [int(n) for n in line.split("|")[2].split(",")[:-1]]
    assert sizes(monkeypatch, FRAME_MS / speed, **options)[: len(said)] == said


@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=20),
    delay=st.integers(0, 40),
    most=st.integers(0, 1),
)
def test_in_a_batch_windows_come_together_in_one_shape(lengths, delay, most) -> None:
    """Requests that begin at different steps: every frame once, in equal shapes after the first."""
    begins = [delay * i % 53 for i in range(len(lengths))]
    schedules = [ChunkSchedule(8, 64 * most, 100, frame_s=1.0) for _ in lengths]
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
        batch_size = max(1, len(running))
        found = of_equal_shape(due, longest, batch_size, FACTS)
        for i, window in zip(owners, found, strict=True):
            numbers = window.new_frames[window.new_frames >= 0]
            assert numbers.tolist() == list(range(heard[i], heard[i] + window.num_frames))
            known = min(heard[i], 100)
            frames = window.codes[0, window.history - known :][: known + window.num_frames]
            assert frames.tolist() == [*range(heard[i] - known + 1, heard[i] + len(numbers) + 1)]
            heard[i] += window.num_frames
        shapes = {w.codes.shape for w in found if w.index}
        if batch_size > 1:
            assert len(shapes) <= 1
            assert all(len(w.new_frames) >= frames_in_batch(batch_size) for w in found if w.index)
    assert heard == lengths


def test_only_windows_of_a_batch_are_padded_to_one_shape() -> None:
    window = Window(np.ones((2, 9), np.int64), np.arange(8, 9), 1, 1)
    assert of_equal_shape([window], 9, 1, FACTS) == [window]
    (padded,) = of_equal_shape([window], 9, 5, FACTS)
    assert (padded.history, len(padded.new_frames)) == (16, frames_in_batch(5))


def test_sizes_grow_and_the_last_is_padded_a_little() -> None:
    codes = np.zeros((200, 10), np.int64)
    schedule = ChunkSchedule(8, 64, 1000)
    sizes = [len(schedule.cut(codes).new_frames) for _ in range(4)]
    assert sizes == [8, 16, 32, 64]
    last = schedule.cut(codes[:123], "stop")
    assert (last.num_frames, len(last.new_frames)) == (3, LAST_GRAIN)
