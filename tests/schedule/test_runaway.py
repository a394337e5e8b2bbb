"""The guard against endless speech."""

import numpy as np
import pytest

from engine.schedule.runaway import LOOP_FRAMES, MAX_PERIOD, runs_away


def frames(semantic: np.ndarray) -> np.ndarray:
    residual = np.random.default_rng(0).integers(0, 64, (len(semantic), 9))
    return np.concatenate([semantic[:, None], residual], axis=1)


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_a_loop_is_noticed_within_a_few_frames(period) -> None:
    speech = np.random.default_rng(1).integers(0, 64, 50)
    loop = np.resize(np.arange(period) + 100, LOOP_FRAMES + 3 * MAX_PERIOD)
    everything = frames(np.concatenate([speech, loop]))
    noticed = [n for n in range(len(everything)) if runs_away(everything[:n])]
    assert noticed
    assert LOOP_FRAMES <= noticed[0] - 50 <= LOOP_FRAMES + 2 * MAX_PERIOD


def test_speech_and_pauses_are_none() -> None:
    rng = np.random.default_rng(2)
    pause = np.zeros(LOOP_FRAMES - 20, np.int64)
    speech = np.concatenate([rng.integers(1, 64, 300), pause, rng.integers(1, 64, 300)])
    everything = frames(speech)
    assert not any(runs_away(everything[:n]) for n in range(len(everything) + 1))
