"""Decoding resumed behind kept histories, for the real codec on kernels.

For a stand-in of it, without kernels: tests/codec/test_resumed.py.
"""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from engine.codec import package, session
from engine.codec.session import DecoderSession, runs

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        ([8, 8, 8], [[0, 1, 2]]),
        ([1] * 70, [list(range(64)), list(range(64, 70))]),
        ([43, 40, 43], [[0], [2], [1]]),
        ([24, 3, 24, 24, 3], [[0, 2], [3], [1, 4]]),
        ([100, 1], [[0], [1]]),
    ],
)
def test_a_batch_runs_in_pieces_of_rows_of_one_group(new, expected) -> None:
    assert list(runs({i: (n, -1) for i, n in enumerate(new)})) == expected


def loaded(repository: Path) -> DecoderSession:
    return DecoderSession(*package.load(repository / "fish_decoder" / "1" / package.FILE_NAME))


@pytest.mark.slow
def test_what_is_known_of_a_history_changes_nothing(kernel_repository) -> None:
    """Streams that take turns, two of them equal up to a point, longer than a window's history."""
    kept, forgetful = loaded(kernel_repository), loaded(kernel_repository)
    most = kept._history_frames
    streams = np.random.default_rng(0).integers(0, 64, (3, 10, most + 90))
    streams[1, :, :56] = streams[0, :, :56]
    limit = int(kept._described["frames"])
    ends = [8, 24, 56, 120, *range(184, min(most + 90, limit) + 1, 64)]
    windows = 0
    for begin, end in pairwise((0, *ends)):
        numbers = np.arange(begin, end)[None]
        for stream in streams:
            arrays = {
                "codes": stream[None, :, max(0, begin - most) : end],
                "new_frames": numbers,
            }
            np.testing.assert_array_equal(kept(arrays), forgetful(arrays))
            forgetful._states.clear()
            windows += begin > 0
    # Where two are equal one finds what the other has left, and that is then gone.
    assert kept.resumed == windows - 3 and forgetful.resumed == 0


@pytest.mark.slow
def test_a_pause_that_repeats_is_decoded_at_its_own_place(kernel_repository) -> None:
    """Its history is the same codes each time, and so are the last frames of unlike histories."""
    kept, forgetful = loaded(kernel_repository), loaded(kernel_repository)
    most = kept._history_frames
    codes = np.random.default_rng(0).integers(0, 64, (2, 10, 3 * most + 40))
    codes[:, :, 20:] = codes[:1, :, 20:21]

    def decode(row: int, begin: int, end: int) -> None:
        window = codes[None, row, :, max(0, begin - most) : end]
        arrays = {"codes": window, "new_frames": np.arange(begin, end)[None]}
        np.testing.assert_array_equal(kept(arrays), forgetful(arrays))
        forgetful._states.clear()

    decode(0, 0, 24)
    decode(1, 24, 32)  # other words before the pause
    decode(0, 24, 30 + most)
    assert kept.resumed == 1
    decode(0, 60 + most, 64 + most)  # the pause alone, elsewhere
    assert kept.resumed == 1
    decode(1, 30 + most, 60 + most)  # the pause alone, where the other stream is
    assert kept.resumed == 2


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_windows_at_different_places_of_their_streams_share_a_batch(
    kernel_repository, known
) -> None:
    """Of unequal histories and lengths, below and beyond the reach of convolutions and window."""
    run = loaded(kernel_repository)
    reach, limit = run._history_frames, int(run._described["frames"])
    starts = sorted({0, 1, 2, 8, 20, 21, 56, min(reach + 9, limit - 16)})
    codes = np.random.default_rng(0).integers(0, 64, (len(starts), 10, starts[-1] + 16))
    wholes = [
        run({"codes": row[None, :, : start + 16], "new_frames": np.arange(start + 16)[None]})
        for start, row in zip(starts, codes, strict=True)
    ]
    run._states.clear()
    if known:
        for start, row in zip(starts[1:], codes[1:], strict=True):
            run({"codes": row[None, :, :start], "new_frames": np.arange(start)[None]})
    history = max(min(reach, start) for start in starts)
    batch, numbers, valid = [], [], [16, 16, 7, 16, 3, 16, 16, 16]
    for start, row, new in zip(starts, codes, valid, strict=True):
        window = row[:, max(0, start - history) : start + new]
        batch.append(np.pad(window, ((0, 0), (history + new - window.shape[1], 16 - new))))
        numbers.append(np.where(np.arange(16) < new, start + np.arange(16), -1))
    audio = run({"codes": np.stack(batch), "new_frames": np.stack(numbers)})
    for heard, whole, start, new in zip(audio, wholes, starts, valid, strict=True):
        expected = whole[0, start * 2048 : (start + new) * 2048]
        np.testing.assert_array_equal(heard[: new * 2048], expected)
    assert run.resumed == (len(starts) - 1) * known


@pytest.mark.slow
def test_what_is_kept_of_histories_is_bounded(kernel_repository, monkeypatch) -> None:
    run = loaded(kernel_repository)
    codes = np.random.default_rng(0).integers(0, 64, (5, 10, 20))
    for row in codes:
        run({"codes": row[None, :, :8], "new_frames": np.arange(8)[None]})
    one = run._bytes // 5
    assert one > 0 and len(run._states) == 5
    monkeypatch.setattr(session, "STATE_BYTES", 5 * one)
    for row in codes[:2:-1]:
        run({"codes": row[None, :, :20], "new_frames": np.arange(8, 20)[None]})
    assert run.resumed == 2 and len(run._states) <= 3
    assert run._bytes == sum(map(session._num_bytes, run._states.values())) <= 5 * one
