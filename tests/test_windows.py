"""The chunk schedule: every frame once, in order, with the history the decoder needs."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.windows import LAST_GRAIN, Schedule


@given(
    frames=st.integers(1, 400),
    first=st.integers(1, 40),
    largest=st.integers(1, 80),
    history=st.integers(0, 60),
)
def test_every_frame_once_with_its_history(frames, first, largest, history) -> None:
    codes = np.arange(2 * frames).reshape(frames, 2) + 1
    schedule, windows = Schedule(first, largest, history), []
    for count in range(1, frames + 1):
        if schedule.due(count) and count < frames:
            windows.append(schedule.cut(codes[:count]))
    windows.append(schedule.cut(codes, "stop"))
    heard = 0
    for index, window in enumerate(windows):
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
        assert (window.finish_reason == "stop") == (index == len(windows) - 1)
        heard += valid
    assert heard == frames


def test_sizes_grow_and_the_last_is_padded_a_little() -> None:
    codes = np.zeros((200, 10), np.int64)
    schedule = Schedule(8, 64, 1000)
    sizes = [len(schedule.cut(codes).new_frames) for _ in range(4)]
    assert sizes == [8, 16, 32, 64]
    last = schedule.cut(codes[:123], "stop")
    assert (last.num_frames, len(last.new_frames)) == (3, LAST_GRAIN)
