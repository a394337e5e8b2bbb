"""What the codec's models refuse when they are called directly."""

import numpy as np
import pytest

from ensemble.contract import codec_limits
from ensemble.contract.codec_limits import WIDEST_CHUNK
from support.facts import FACTS

LIMIT = WIDEST_CHUNK + FACTS.history_frames


def window(rows: int = 1, books: int = 10, frames: int = 20, new: int = 8, begin: int = 12) -> dict:
    numbers = np.tile(begin + np.arange(new), (rows, 1))
    return {"codes": np.ones((rows, books, frames), np.int64), "new_frames": numbers}


def test_what_ensembles_send_is_taken() -> None:
    for sent in (
        window(),
        window(frames=WIDEST_CHUNK, new=WIDEST_CHUNK, begin=0),
        window(frames=LIMIT, new=WIDEST_CHUNK, begin=FACTS.history_frames),
        window(16, frames=16),
    ):
        codec_limits.refuse("fish_decoder", sent, FACTS)
    padded = window()
    padded["new_frames"][0, 5:] = -1
    codec_limits.refuse("fish_decoder", padded, FACTS)
    padded["new_frames"][:] = -1  # the end of a cancelled stream
    codec_limits.refuse("fish_decoder", padded, FACTS)
    zeros = {"codes": np.zeros((1, 32, 8), int), "new_frames": np.zeros((1, 8), int)}
    codec_limits.refuse("fish_decoder", zeros, FACTS)  # the warm-up of config.pbtxt


def changed(name: str, where: tuple, value: int) -> dict:
    sent = window()
    sent[name][where] = value
    return sent


WINDOWS = {
    "wide": (window(frames=LIMIT + 1, new=9), r"codes has 1 rows of 553 frames, expected 552"),
    "many rows": (window(16, frames=40), "codes has 16 rows of 40 frames, expected 552 frames in"),
    "more codebooks": (window(books=11), r"codes has shape \[1, 11, 20\], expected \[rows, 10"),
    "32 codebooks": (window(books=32, frames=8), r"expected \[rows, 10, frames\]"),
    "fewer codebooks": (window(books=3), r"codes has shape \[1, 3, 20\], expected"),
    "a code too high": (changed("codes", (0, 3, 0), 64), "codes holds an entry that"),
    "a code below 0": (changed("codes", (0, 3, 0), -1), "codes holds an entry that"),
    "numbers that jump": (changed("new_frames", (0, 3), 90), "does not count up frame by frame"),
    "padding in the middle": (changed("new_frames", (0, 3), -1), "does not count up"),
    "padding in front": (changed("new_frames", (0, 0), -1), "does not count up"),
    "below padding": (window(begin=-9), "new_frames "),
    "beyond the last": (window(begin=4090), "new_frames ends with 4097, expected 4095 at most"),
    "a number past all": (window(begin=2**63 - 8), "new_frames ends with 9223372036854775807"),
    "more new than codes": (window(frames=4), "at least one new frame among at most 4096"),
    "nothing": (window(frames=0, new=0), "at least one new frame"),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_windows_that_mean_nothing(case) -> None:
    sent, message = WINDOWS[case]
    with pytest.raises(ValueError, match=message):
        codec_limits.refuse("fish_decoder", sent, FACTS)


def recording(rows: int = 1, samples: int = 44100, chunk: int = 64, value: float = 0.1) -> dict:
    chunks = np.full((rows, 1), chunk)
    waveform = np.broadcast_to(np.float32(value), (rows, samples))  # of which it takes one number
    return {"waveform": waveform, "chunk_frames": chunks}


LONGEST = FACTS.max_reference_frames
RECORDINGS = {
    "8 x 2048 frames": (recording(8, 2048 * 2048), "is 16384 frames, expected 1 to 6144 in one"),
    "too long": (recording(samples=LONGEST * 2048 + 1), "is 6145 frames, expected 1 to 6144"),
    "empty": (recording(samples=0), "is 0 frames, expected 1 to"),
    "NaN": (recording(value=np.nan), "waveform holds NaN or infinity"),
    "infinity": (recording(value=-np.inf), "waveform holds NaN or infinity"),
    "chunk": (recording(chunk=-1), r"chunk_frames is \[-1\], expected 0 to 6144"),
    "huge chunk": (recording(chunk=2**62), "chunk_frames is .4611686018427387904., expected 0"),
}


@pytest.mark.parametrize("case", RECORDINGS)
def test_recordings_that_keep_everybody_waiting(case) -> None:
    sent, message = RECORDINGS[case]
    with pytest.raises(ValueError, match=message):
        codec_limits.refuse("fish_encoder", sent, FACTS)
    for samples in (1, 16384, LONGEST * 2048):
        codec_limits.refuse("fish_encoder", recording(samples=samples, chunk=0), FACTS)
